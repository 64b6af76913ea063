"""Pictures of one shape through the chain together: what `images.to_array` gives for each, in fewer calls."""

from functools import lru_cache

import numpy as np
from PIL import Image

from sslood.data.sets.halving import factor_of, halved
from sslood.data.sets.images import frame, to_array


def to_arrays(stack: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Return uint8 [N, channels, size, size]: what `to_array` gives for each of uint8 [N, H, W(, 3)].

    Pillow filters along one axis, rounds, then along the other. One below the other all pictures share
    the pass along rows, side by side that along columns: two calls a stack instead of several a picture.
    Where the sides shrink to a half, a quarter or an eighth, sums in 16 bit do it in a third of the time.
    """
    count, height, width = stack.shape[:3]
    columns_first, factor = _way(height, width, size)
    if columns_first is None:
        return np.stack([to_array(Image.fromarray(picture), size, channels) for picture in stack])
    if (stack.ndim == 3) != (channels == 1):
        image = Image.fromarray(stack.reshape(count * height, *stack.shape[2:]))
        stack = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    stack = stack.reshape(count, height, width, channels)
    shape, left, top = frame(width, height, size)
    if factor:
        return halved(stack, factor, columns_first)[:, :, top : top + size, left : left + size]
    for axis in (1, 2) if columns_first else (2, 1):
        stack = _along(stack, axis, shape[2 - axis])
        stack = stack[:, top : top + size] if axis == 1 else stack[:, :, left : left + size]
    return stack.transpose(0, 3, 1, 2)


def _along(stack: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Filter uint8 [N, H, W, C] along its axis 1 or 2 to `length`."""
    count, height, width, channels = stack.shape
    if stack.shape[axis] == length:
        return stack
    lines = stack.swapaxes(0, 1).reshape(height, -1, channels) if axis == 1 else stack
    lines = np.ascontiguousarray(lines).reshape(-1, lines.shape[-2], channels)
    image = Image.fromarray(lines[..., 0] if channels == 1 else lines)
    shape = (image.width, length) if axis == 1 else (length, image.height)
    array = np.asarray(image.resize(shape, Image.Resampling.BILINEAR))
    if axis == 1:
        return array.reshape(length, count, width, channels).swapaxes(0, 1)
    return array.reshape(count, height, length, channels)


@lru_cache(maxsize=1024)
def _way(height: int, width: int, size: int) -> tuple[bool | None, int]:
    """Say how Pillow filters pictures of this shape: (whether along columns first, factor for `halved` or 0).

    Pillow's rules are its own and the bytes depend on them, so noise is sent through to find out.
    None: neither order explains what it does.
    """
    noise = np.random.default_rng(0).integers(0, 256, (8, height, width, 1), np.uint8)
    shape, _, _ = frame(width, height, size)
    whole = [Image.fromarray(plane[..., 0]).resize(shape, Image.Resampling.BILINEAR) for plane in noise]
    for first in (False, True):
        found = noise
        for axis in (1, 2) if first else (2, 1):
            found = _along(found, axis, shape[2 - axis])
        if np.array_equal(found[..., 0], np.stack(whole)):
            factor = factor_of(height, width, shape[::-1])
            same = factor and np.array_equal(halved(noise, factor, first)[:, 0], np.stack(whole))
            return first, factor if same else 0
    return None, 0
