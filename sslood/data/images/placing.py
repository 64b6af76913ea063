"""Matrices that resize, shift and flip: two products place a whole batch, each image its own way."""

import torch
from torch import Tensor


def resize_matrix(
    start: Tensor,
    length: Tensor,
    size: int,
    interpolation: str,
    flipped: Tensor | None = None,
    *,
    bounded: bool = True,
) -> Tensor:
    """Return matrices [N, size, size] that stretch `length` pixels from `start` over all `size`.

    Row o holds k(s + 1/2 - c) over the source pixels s of the box, c = start + (o + 1/2) length / size,
    normalised to sum 1; k is the triangle or Keys' cubic with a = -1/2 (Pillow's). A crop never
    exceeds the output, so no anti-aliasing enters. `flipped` [N] reverses the rows. Not `bounded`, pixels
    beside the box count too: the box is then cut out of a picture that was resized as a whole.
    """
    source = torch.arange(size, device=start.device, dtype=start.dtype)
    target = source.expand(len(start), size)
    if flipped is not None:
        target = torch.where(flipped[:, None], size - 1 - target, target)
    centre = start[:, None] + (target + 0.5) * (length / size)[:, None]
    distance = (source + 0.5 - centre[:, :, None]).abs()
    weights = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    if bounded:
        inside = (source >= start[:, None]) & (source < (start + length)[:, None])
        weights = weights * inside[:, None, :]
    return weights / weights.sum(-1, keepdim=True)


def _cubic(d: Tensor) -> Tensor:
    """Keys' cubic kernel (1981) with a = -1/2 of the distances d >= 0."""
    # both pieces as powers of the distance to where they end: no branch, and few passes over the matrices
    u, v = (2 - d).clamp(min=0), (1 - d).clamp(min=0)
    return 0.5 * u * u * (u - 1) + v * v * (1 - 2 * v)


def shift_matrix(uniform: Tensor, size: int, pad: int, flipped: Tensor | None = None) -> Tensor:
    """Return matrices [N, size, size] that move by a whole number of pixels in [-pad, pad]."""
    offset = (uniform * (2 * pad + 1)).floor() - pad
    source = torch.arange(size, device=uniform.device, dtype=uniform.dtype)
    target = source.expand(len(uniform), size)
    if flipped is not None:
        target = torch.where(flipped[:, None], size - 1 - target, target)
    return ((target + offset[:, None])[:, :, None] == source).to(uniform.dtype)
