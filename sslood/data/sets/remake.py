"""Published sets built anew by the one chain, from larger pictures.

ODIN's archives were shrunk without antialiasing, and a detector can tell them by that alone (Tack et al.,
CSI, NeurIPS 2020, appendix). The catalogue's `shrink` and `crop` make the same sets without the traces.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.sets.convert import convert
from sslood.data.sets.images import read_image
from sslood.data.sets.readers import Pictures


def remade(name: str, pictures: Pictures, options: Mapping[str, Any]) -> Pictures:
    """Return `pictures` shrunk to squares of `options["shrink"]` pixels, cut to random squares of
    `options["crop"]`, or as they are if the catalogue asks for neither."""
    if side := options.get("shrink"):
        images = convert(pictures.images, side, 3, name).transpose(0, 2, 3, 1)
    elif side := options.get("crop"):
        images = random_crops(pictures.images, side, numpy_stream(0, "crop", name))
    else:
        return pictures
    return Pictures(images, pictures.labels, pictures.classes)


def random_crops(paths: list[Path], side: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [N, side, side, 3]: one square of each picture, anywhere with equal probability."""
    out = np.empty((len(paths), side, side, 3), np.uint8)
    for square, path in zip(out, paths, strict=True):
        image = read_image(path).convert("RGB")
        if min(image.size) < side:
            raise InputError(f"{path}: smaller than {side}x{side} pixels, so nothing can be cut out of it")
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        square[:] = np.asarray(image.crop((left, top, left + side, top + side)))
    return out
