"""Stored images as what a network reads: in batches, on a device, normalised."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def normalise(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """Return float images [N, C, H, W] as (x - mean) / std per channel.

    `images` are uint8 (0 to 255) or floats in [0, 1]; `mean` and `std` hold one value per channel, in
    units of [0, 1]. Inside a training step pass them as tensors on the device: a list is copied there.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
    centre = torch.as_tensor(mean, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    scale = torch.as_tensor(std, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    return (images - centre) / scale


def batches(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Yield uint8 images [N, C, H, W] as tensors of at most `batch_size`, in order."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))


def normalised(
    parts: Iterable[Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:
    """Yield each batch [B, C, H, W], uint8 or floats in [0, 1], as (x - mean) / std on `device` in `dtype`.

    mean and std: one value per channel, of pixels in [0, 1].
    """
    for part in parts:
        part = part.to(device)
        pixels = part.to(dtype) / 255 if part.dtype == torch.uint8 else part.to(dtype)
        yield normalise(pixels, mean, std)
