"""RandAugment: a few of 14 operations, drawn at random, all of one strength.

Cubuk et al. 2020, "RandAugment: practical automated data augmentation with a reduced search space",
arXiv:1909.13719, with torchvision's operations and ranges.
"""

import torch
from torch import Tensor

from sslood.data.images.operations import OPERATIONS, operate, picked

LARGEST = 30  # magnitude


def columns(count: int) -> int:
    """Return the number of uniform draws of an image for `count` operations: a kind and a sign of each."""
    return 2 * count


def randaugment(x: Tensor, draws: Tensor, magnitude: int) -> Tensor:
    """Return images [N, C, H, W] in [0, 1] after the operations that the uniform `draws` [N, columns] decide.

    Rotations and shears are bilinear, where torchvision's default takes the nearest pixel.
    """
    for draw in draws.split(2, 1):
        kind = (draw[:, :1] * len(OPERATIONS)).long()
        x = operate(x, kind, amounts(kind, draw[:, 1:], magnitude, *x.shape[-2:]))[:, 0]
    return x


def amounts(kind: Tensor, sign: Tensor, magnitude: int, height: int, width: int) -> Tensor:
    """Return the amounts of operations `kind`, turned round where the uniform `sign` is below one half."""
    share = magnitude / LARGEST
    signed = share * torch.where(sign < 0.5, -1, 1).to(sign.dtype)
    factor = 1 + 0.9 * signed
    values: dict[str, Tensor | float] = {
        "posterize": 8.0 - round(4 * share),
        "solarize": 255 - 255 * share,
        "rotate": 30 * signed,
        **dict.fromkeys(("shear_x", "shear_y"), 0.3 * signed),
        "translate_x": (150 / 331 * width * signed).trunc(),
        "translate_y": (150 / 331 * height * signed).trunc(),
        **dict.fromkeys(("colour", "contrast", "brightness", "sharpness"), factor),
    }
    return picked(kind, values, torch.zeros_like(signed))
