"""Pillow's bilinear reduction to a half, a quarter or an eighth: many pictures at once, the same bytes.

Pillow filters along one axis, rounds, then along the other, with weights in 22 bit fixed point. Where a
picture shrinks by a power of two r, the weights of its triangle are 1, 3, ..., 2r - 1, 2r - 1, ..., 3, 1 over
2 r^2, without any remainder: what running sums over 2, r and r neighbours add up to. So a pass is a few
additions of the whole stack to itself, moved by some pixels, in 16 bit (255 * 2 r^2 fits in up to r = 8).
Only the outermost row or column of the result, where the triangle is cut off, has weights of its own.
"""

import threading

import numpy as np

FACTORS = (2, 4, 8)
_BITS = 22  # of Pillow's fixed-point weights
_SPACE = threading.local()  # fresh memory for every stack would cost as much as the sums


def factor_of(height: int, width: int, shape: tuple[int, int]) -> int:
    """Return r if (height, width) shrinks to `shape` (height, width) by r in FACTORS on both axes, else 0."""
    fits = (r for r in FACTORS if (height, width) == (r * shape[0], r * shape[1]) and min(shape) > 1)
    return next(fits, 0)


def halved(stack: np.ndarray, factor: int, columns_first: bool = False) -> np.ndarray:
    """Return uint8 [N, C, H / factor, W / factor] of uint8 [N, H, W, C], by a factor in FACTORS.

    `columns_first`: filter along columns, then along rows (Pillow does so with some tall pictures).
    """
    count, height, width, channels = stack.shape
    here, there = _space(stack.size)
    np.copyto(here, stack.reshape(-1))
    passes = [(count * height, width, channels), (count, height, width * channels)]
    for lines, length, unit in reversed(passes) if columns_first else passes:
        ends = _ends(here.reshape(lines, length, unit), factor)
        here, there = _summed(here, there, unit, factor)
        kept = here.reshape(lines, length, unit)
        kept[:, 0], kept[:, length - factor] = ends
    kept = here.reshape(stack.shape)
    out = np.empty((count, channels, height // factor, width // factor), np.uint8)
    for channel in range(channels):  # one by one: a last axis of three values is slow to walk
        np.copyto(out[:, channel], kept[:, ::factor, ::factor, channel], casting="unsafe")
    return out


def _space(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two uint16 arrays of `size`, for this thread to use again and again."""
    if getattr(_SPACE, "size", 0) < size:
        _SPACE.size, _SPACE.arrays = size, (np.empty(size, np.uint16), np.empty(size, np.uint16))
    here, there = _SPACE.arrays
    return here[:size], there[:size]


def _summed(here: np.ndarray, there: np.ndarray, unit: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (filtered, the other array): `here` filtered along steps of `unit` values, rounded.

    The value of the result's place j stands at factor * j. What lies across the end of a line is
    nonsense, and stands where nothing is kept.
    """
    doublings = range(factor.bit_length() - 1)  # a sum over r neighbours is one over 2, of sums over 2, ...
    steps = [unit] + [unit << k for k in doublings for _ in range(2)]
    for step in steps[:-1]:
        np.add(here[:-step], here[step:], out=there[:-step])
        here, there = there, here
    step, move = steps[-1], factor // 2 * unit  # the sum starts half a factor before the place it is for
    size = here.size - step - move
    np.add(here[:size], here[step : step + size], out=there[move : move + size])
    there += np.uint16(factor * factor)
    there >>= np.uint16((2 * factor * factor).bit_length() - 1)
    return there, here


def _ends(lines: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 [N, U] twice: the first and the last value of lines [N, length, U], once reduced."""
    triangle = np.minimum(np.arange(1, 4 * factor, 2), np.arange(4 * factor - 1, 0, -2))
    cut = triangle[factor // 2 :] / triangle[factor // 2 :].sum()
    weights = (cut * (1 << _BITS) + 0.5).astype(np.int32)
    out = []
    for side in (lines, lines[:, ::-1]):
        total = side[:, 0] * weights[0]
        for place, weight in enumerate(weights[1:], start=1):
            total += side[:, place] * weight
        out.append((total + (1 << (_BITS - 1))) >> _BITS)
    return out[0], out[1]
