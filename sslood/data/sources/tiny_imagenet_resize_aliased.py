"""The set tiny_imagenet_resize_fixed with aliases: every second pixel of Tiny ImageNet's validation images.

What a resize without antialiasing leaves, as in ODIN's archives of this kind, so that its trace can be
measured: the pictures are the same, and only the chain differs. Shares with cifar10 and cifar100 what
tiny_imagenet does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslood.data.sets.formats import TINY_IMAGENET, tiny_imagenet
from sslood.data.sets.images import read_image
from sslood.data.sets.pictures import Pictures
from sslood.data.sets.published_source import PublishedSource

SIDE = 32


def aliased(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Return the pictures at 32x32 pixels by their nearest neighbours."""
    found = tiny_imagenet(files, split, options)
    images = np.empty((len(found.labels), SIDE, SIDE, 3), np.uint8)
    for image, path in zip(images, found.images, strict=True):
        picture = read_image(path).convert("RGB")
        image[:] = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return Pictures(images, found.labels, found.classes)


SOURCE = PublishedSource(
    reader=aliased,
    licence="ImageNet terms (non-commercial research)",
    citation="Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, 2015",
    counts={"test": 10000},
    per_class={"test": 50},
    published=(TINY_IMAGENET,),
)
