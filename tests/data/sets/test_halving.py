"""Reductions by sums against Pillow's filter."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sslood.data.sets.halving import FACTORS, factor_of, halved


def pillow(stack: np.ndarray, factor: int) -> np.ndarray:
    count, height, width, channels = stack.shape
    out = np.empty((count, channels, height // factor, width // factor), np.uint8)
    for picture, planes in zip(stack, out, strict=True):
        image = Image.fromarray(picture if channels == 3 else picture[..., 0])
        small = np.asarray(image.resize(planes.shape[:0:-1], Image.Resampling.BILINEAR))
        planes[:] = small.transpose(2, 0, 1) if channels == 3 else small
    return out


@pytest.mark.parametrize("factor", FACTORS)
def test_same_bytes_as_pillow(factor):
    """Noise and pure black and white, where each rounding counts; some pass columns first."""
    rng, orders = np.random.default_rng(factor), set()
    for height, width in ((2, 2), (8, 8), (3, 9), (9, 2), (32, 32), (40, 2)):
        for channels in (1, 3):
            noise = rng.integers(0, 256, (20, height * factor, width * factor, channels), np.uint8)
            for stack in (noise, (noise > 127) * np.uint8(255)):
                expected = pillow(stack, factor)
                same = [np.array_equal(halved(stack, factor, first), expected) for first in (False, True)]
                assert any(same), (height, width, channels)
                orders.add(tuple(same))
    assert (True, False) in orders  # so noise tells the orders apart


@pytest.mark.parametrize("factor", FACTORS)
def test_extremes_and_even_pictures(factor):
    """All of one grey stays what it is, white too: nothing overflows 16 bit."""
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    stack = np.broadcast_to(levels, (256, 2 * factor, 3 * factor, 3))
    found = halved(stack, factor)
    assert found.shape == (256, 3, 2, 3) and (found == levels).all()


def test_which_shapes():
    assert factor_of(64, 64, (32, 32)) == 2 and factor_of(96, 64, (48, 32)) == 2
    assert factor_of(128, 256, (16, 32)) == 8
    for shape in ((64, 64), (32, 16), (21, 21), (4, 4), (128, 128)):
        assert factor_of(64, 64, shape) == 0
    assert factor_of(2, 64, (1, 32)) == 0  # both ends of an axis in one pixel


def test_memory_that_is_used_again_holds_nothing_back():
    rng = np.random.default_rng(0)
    stacks = [rng.integers(0, 256, (n, 16, 16, 3), np.uint8) for n in (9, 2, 5, 30, 1)] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda stack: halved(stack, 2), stacks))
    assert all(np.array_equal(one, pillow(stack, 2)) for one, stack in zip(found, stacks, strict=True))
