"""Rounding keeps a value within half a step, is stable, and takes away noise."""

import numpy as np
import pytest

from sslood.core.rounding import GRID, decimal, on_grid, to_multiples


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(100, 50)) * np.logspace(-6, 2, 50)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_grid_moves_values_by_half_a_step_at_most(values, dtype):
    values = values.astype(dtype)
    rounded = on_grid(values)
    step = 2.0 ** (np.ceil(np.log2(np.abs(values).max())) - GRID)
    assert rounded.dtype == dtype and rounded.shape == values.shape
    assert np.abs(rounded.astype(float) - values).max() <= step / 2
    assert np.array_equal(rounded / step, np.rint(rounded / step))


def test_multiples_follow_the_scale_of_each_value():
    # numpy's own float16 holds eleven significant binary digits
    pair = np.array([1.0009765625, 3.14])
    assert np.array_equal(to_multiples(pair, pair, 11), pair.astype(np.float16).astype(float))


def test_rounding_twice_changes_nothing_and_noise_goes(values):
    once = on_grid(values)
    assert np.array_equal(on_grid(once), once)
    noisy = once + np.abs(values).max() * 1e-12 * np.random.default_rng(1).uniform(-1, 1, values.shape)
    assert np.array_equal(on_grid(noisy), once)


def test_what_is_no_number_stays():
    values = np.array([np.nan, np.inf, -np.inf, 0.0, 1.5])
    assert np.array_equal(on_grid(values), values, equal_nan=True)
    assert on_grid(np.zeros(3)).tolist() == [0, 0, 0] and on_grid(np.zeros((0, 2))).shape == (0, 2)


def test_decimal_digits():
    assert decimal(0.12345678) == 0.123457 and decimal(-1234567.8) == -1234570.0 and decimal(0.0) == 0.0
