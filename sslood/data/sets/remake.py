"""Published sets made again by the one chain, from larger pictures.

ODIN's archives were shrunk without antialiasing, and a detector can distinguish them by that alone (Tack et
al., CSI: Novelty Detection via Contrastive Learning on Distributionally Shifted Instances, NeurIPS 2020,
arXiv:2007.08176, appendix). These are the same sets without the traces.
"""

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.sets.convert import convert
from sslood.data.sets.images import read_image
from sslood.data.sets.pictures import Images


def shrunk(images: Images, side: int, name: str) -> np.ndarray:
    """Return uint8 [N, side, side, 3]: every picture of set `name` through the one chain."""
    return convert(images, side, 3, name).transpose(0, 2, 3, 1)


def random_crops(paths: Images, side: int, name: str) -> np.ndarray:
    """Return uint8 [N, side, side, 3]: one square of each picture, anywhere with equal probability.

    Drawn from the stream ("crop", name) of seed 0. Raises InputError for a picture that is smaller.
    """
    rng = numpy_stream(0, "crop", name)
    squares = np.empty((len(paths), side, side, 3), np.uint8)
    for square, path in zip(squares, paths, strict=True):
        image = read_image(path).convert("RGB")
        if min(image.size) < side:
            raise InputError(f"{path}: smaller than {side}x{side} pixels, so nothing can be cut out of it")
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        square[:] = np.asarray(image.crop((left, top, left + side, top + side)))
    return squares
