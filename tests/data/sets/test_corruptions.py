"""Each corruption against its definition, and the shares of the eight."""

import numpy as np
import pytest

from sslood.data.sets import corruptions
from sslood.data.sets.corruptions import KINDS, corrupt


def images(channels: int, count: int = 6, side: int = 16) -> np.ndarray:
    return np.random.default_rng(1).random((count, channels, side, side))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_means():
    x, y = images(3), images(3)[::-1]
    assert np.allclose(corruptions.arithmetic_mean(x, y, rng()), 0.5 * x + 0.5 * y)
    assert np.allclose(corruptions.geometric_mean(x, y, rng()) ** 2, x * y)


@pytest.mark.parametrize("channels", [1, 3])
def test_jigsaw_moves_whole_tiles(channels):
    x = images(channels)
    y = corruptions.jigsaw(x, x, rng())

    def tiles(image):
        blocks = image.reshape(channels, 4, 4, 4, 4).transpose(1, 3, 0, 2, 4).reshape(16, -1)
        return sorted(map(bytes, blocks)), blocks

    for before, after in zip(x, y, strict=True):
        assert tiles(before)[0] == tiles(after)[0]
        assert (tiles(before)[1] == tiles(after)[1]).all(1).sum() <= 4


def test_speckle_keeps_black_and_range():
    x = images(3)
    x[0] = 0
    y = corruptions.speckle(x, x, rng())
    assert (y[0] == 0).all() and y.min() >= 0 and y.max() <= 1
    x[:] = 0.1
    assert abs(corruptions.speckle(x, x, rng()).mean() - 0.1 * 1.0833) < 0.005  # E max(0, 1 + n) = 1.0833


def test_pixelate_of_a_multiple_is_the_block_mean():
    x = images(1, side=20)
    y = corruptions.pixelate(x, x, rng())
    means = x.reshape(6, 1, 4, 5, 4, 5).mean((3, 5))
    assert np.allclose(y, means.repeat(5, 2).repeat(5, 3), atol=1e-6)


def test_ghost_and_inversion_in_colour_can_be_undone():
    x = images(3)
    y = corruptions.ghost(x, x, rng())
    assert np.array_equal(y[:, 0, :, ::-1], x[:, 1]) and np.array_equal(y[:, 2], x[:, 0])
    z = corruptions.inversion(x, x, rng())
    assert np.array_equal(z[:, 0], x[:, 0]) and np.allclose(1 - z[:, 1:], x[:, 1:])


def test_ghost_and_inversion_in_grey():
    x = images(1, count=40)
    y = corruptions.ghost(x, x, rng())
    assert (y >= x).all() and (y > x).any((1, 2, 3)).all()
    z = corruptions.inversion(x, x, rng())
    changed = ~np.isclose(z, x)
    assert np.allclose(z[changed], 1 - x[changed])
    assert np.abs(changed.mean((1, 2, 3)) - 0.5).max() < 0.02


def test_equal_shares_each_image_once_and_pairs_of_two_classes():
    x = np.random.default_rng(2).integers(0, 256, (80, 1, 16, 16), np.uint8)
    classes = np.arange(80) % 5
    out, labels, index = corrupt(x, classes, 80, rng())
    assert out.shape == x.shape and out.dtype == np.uint8
    assert np.bincount(labels).tolist() == [10] * len(KINDS)
    assert np.array_equal(np.sort(index), np.arange(80))
    partner = corruptions.partners_of(index, classes, rng())
    assert (classes[partner] != classes[index]).all()
    assert np.bincount(corrupt(x, classes, 203, rng())[2]).max() == 3
    assert np.array_equal(out, corrupt(x, classes, 80, rng())[0])
