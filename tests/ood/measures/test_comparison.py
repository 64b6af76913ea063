"""Paired tests: the covariance by definition, error rates by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest, kstest, norm

from sslood.core.errors import InputError
from sslood.ood.measures.comparison import Scores, delong_test


def pair(random, n=60, m=50, shift=1.0, better=0.0):
    """Two detectors that share a part of their noise."""
    common = random.normal(size=n + m)
    own = random.normal(size=(2, n + m))
    rows = common + own
    rows[:, n:] += shift
    rows[1, n:] += better
    return Scores(rows[0, :n], rows[0, n:]), Scores(rows[1, :n], rows[1, n:])


def test_delong_equals_its_definition_with_ties():
    first, second = (Scores(s.id.round(1), s.ood.round(1)) for s in pair(np.random.default_rng(0), 40, 30))
    aurocs, v10, v01 = [], [], []
    for scores in (first, second):
        wins = (scores.ood[:, None] > scores.id) + 0.5 * (scores.ood[:, None] == scores.id)
        aurocs.append(wins.mean())
        v10.append(wins.mean(1))
        v01.append(wins.mean(0))
    covariance = np.cov(v10) / 30 + np.cov(v01) / 40
    contrast = np.array([-1, 1])
    deviation = np.sqrt(contrast @ covariance @ contrast)
    found, gap = delong_test(first, second, confidence=0.9), aurocs[1] - aurocs[0]
    assert found.value == pytest.approx(gap, abs=1e-14)
    half = norm.ppf(0.95) * deviation
    assert (found.low, found.high) == pytest.approx((gap - half, gap + half), rel=1e-9)
    assert found.p_value == pytest.approx(2 * norm.cdf(-abs(gap) / deviation), rel=1e-9)


def test_delong_is_uniform_for_equal_detectors_and_sharper_than_unpaired():
    random = np.random.default_rng(1)
    found = [delong_test(*pair(random)) for _ in range(600)]
    assert kstest([one.p_value for one in found], "uniform").pvalue > 1e-3
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.03)
    better = [delong_test(*pair(random, better=0.8)).p_value < 0.05 for _ in range(100)]
    assert np.mean(better) > 0.5


def test_swapping_the_detectors_swaps_the_sign():
    first, second = pair(np.random.default_rng(3))
    there, back = delong_test(first, second), delong_test(second, first)
    assert (there.value, there.low, there.p_value) == pytest.approx((-back.value, -back.high, back.p_value))


def test_equal_and_perfect_detectors():
    first, _ = pair(np.random.default_rng(4))
    assert delong_test(first, Scores(first.id * 3, first.ood * 3)).p_value == 1.0
    right, wrong = Scores(np.zeros(5), np.ones(4)), Scores(np.ones(5), np.zeros(4))
    found, low = delong_test(wrong, right), binomtest(4, 4).proportion_ci(0.95, method="exact").low
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(2 * low - 1)
    assert found.p_value == binomtest(4, 4, 0.5).pvalue == 0.125
    level = delong_test(Scores(np.zeros(5), np.zeros(4)), right)  # all pairs are half a pair better
    assert (level.value, level.p_value) == (0.5, 0.125) and level.low < 0 < 0.5 < level.high <= 1


@pytest.mark.parametrize("n", [3, 5, 6, 7, 10, 20, 49])
def test_no_variance_is_exactly_none_whatever_the_number_of_images(n):
    """One detector ranks each image half a pair better: a third of a pair has no exact float64."""
    inside = np.arange(n) * 1.0
    first, second = Scores(inside, inside - 0.5), Scores(inside, inside + 0.5)
    for found, sign in ((delong_test(first, second), 1), (delong_test(second, first), -1)):
        assert found.value == pytest.approx(sign / n)
        assert found.p_value == 2.0 ** (1 - n) and found.low < found.value < found.high
        assert found.high - found.low > 0.01


def test_refuses():
    first, second = pair(np.random.default_rng(5))
    with pytest.raises(InputError, match="scored 60 and 59 ID images"):
        delong_test(first, Scores(second.id[1:], second.ood))
    with pytest.raises(InputError, match="two images"):
        delong_test(Scores([1.0], [1.0, 2]), Scores([1.0], [1.0, 2]))
    with pytest.raises(InputError, match="NaN"):
        delong_test(first, Scores(second.id * np.nan, second.ood))
