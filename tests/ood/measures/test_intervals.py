"""Intervals: variance by definition, coverage by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from sslood.core.errors import InputError
from sslood.ood.measures.intervals import delong_interval


def test_delong_equals_its_definition():
    random = np.random.default_rng(0)
    a, b = random.normal(size=40).round(1), random.normal(1, 1, size=30).round(1)
    wins = (b[:, None] > a) + 0.5 * (b[:, None] == a)
    auroc = wins.mean()
    variance = wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / 40
    half = norm.ppf(0.95) * np.sqrt(variance) / (auroc * (1 - auroc))
    expected = [1 / (1 + np.exp(-(np.log(auroc / (1 - auroc)) + sign * half))) for sign in (-1, 1)]
    assert delong_interval(a, b, confidence=0.9) == pytest.approx(expected, rel=1e-12)


def test_intervals_cover_the_truth():
    truth, hits, random = norm.cdf(1 / np.sqrt(2)), 0, np.random.default_rng(1)
    for _ in range(400):
        low, high = delong_interval(random.normal(size=60), random.normal(1, 1, size=80))
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_perfect_separation_has_clopper_and_pearsons_bound():
    random = np.random.default_rng(2)
    first, second = random.normal(size=30), random.normal(9, 1, size=20)
    low = binomtest(20, 20).proportion_ci(0.95, method="exact").low
    assert delong_interval(first, second) == pytest.approx((low, 1.0))
    assert delong_interval(second, first) == pytest.approx((0.0, 1.0 - low))
    low = binomtest(2, 2).proportion_ci(0.9, method="exact").low
    assert delong_interval([0.0, 1.0], [2.0, 3.0], confidence=0.9) == pytest.approx((low, 1.0))


@pytest.mark.parametrize(("images", "shift"), [(10, 2.5), (30, 3.5), (100, 4.5)])
def test_intervals_of_few_images_that_are_far_away_cover_the_truth(images, shift):
    """A quarter of these draws separate perfectly."""
    truth, random = norm.cdf(shift / np.sqrt(2)), np.random.default_rng(3)
    sides = [random.normal(size=(2, images)) for _ in range(400)]
    found = [delong_interval(inside, outside + shift) for inside, outside in sides]
    assert np.mean([low == high for low, high in found]) == 0
    assert np.mean([low <= truth <= high for low, high in found]) > 0.93


def test_refuses():
    with pytest.raises(InputError, match="two images"):
        delong_interval([0.0], [1.0, 2.0])
