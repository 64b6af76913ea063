"""Cutout: a square hole in each image.

DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with cutout",
arXiv:1708.04552.
"""

import torch
from torch import Tensor

COLUMNS = 2  # uniform draws of an image: row and column of the hole's centre


def cutout(x: Tensor, draws: Tensor, side: int, fill: Tensor | float) -> Tensor:
    """Return images [N, C, H, W] with a hole of side x side pixels that shows `fill`, a value or [C].

    As the authors' code does it: the centre is uniform over the pixels, so the border cuts holes off; a hole
    reaches side // 2 pixels before its centre and side // 2 - 1 after it. draws: uniform [N, 2].
    """
    row, column = (_span(draws[:, axis], size, side) for axis, size in enumerate(x.shape[-2:]))
    hole = (row[:, :, None] & column[:, None, :]).unsqueeze(1)
    colour = torch.as_tensor(fill, dtype=x.dtype, device=x.device).view(-1, 1, 1)
    return torch.where(hole, colour, x)


def _span(uniform: Tensor, size: int, side: int) -> Tensor:
    """Return which of `size` pixels the hole covers along one axis, [N, size]."""
    centre = (uniform * size).floor()[:, None]
    place = torch.arange(size, dtype=uniform.dtype, device=uniform.device)
    return (place >= centre - side // 2) & (place < centre + side // 2)
