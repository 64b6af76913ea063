"""Tests of one batch: against scipy, closed forms, and batches that are like the calibration images."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import betabinom, binom, ks_2samp

from sslood.core.errors import InputError
from sslood.deploy.drift.batches import Group, flags_p_value, scores_p_value
from sslood.deploy.drift.vectors import compare_vectors, median_distance, unbiased_mmd2
from sslood.ood.measures.conformal import conformal_threshold


def test_flags_of_one_threshold_by_their_closed_form():
    # 99 images at 5 %: the 95th of 99 is the threshold, and the rate beyond it is Beta(5, 95)
    group = Group(calibration=99, allowed=5, images=200, flagged=21)
    assert flags_p_value([group]) == pytest.approx(betabinom(200, 5, 95).sf(20), rel=1e-9)
    assert flags_p_value([Group(99, 5, 200, 0)]) == 1.0
    many = Group(calibration=10**6, allowed=5 * 10**4, images=200, flagged=21)
    assert flags_p_value([many]) == pytest.approx(binom(200, 0.05).sf(20), rel=2e-3), "binomial at last"


def test_flags_of_several_thresholds_are_added():
    first, second = betabinom(30, 5, 95), betabinom(50, 2, 48)
    for flagged in ((3, 4), (0, 1), (30, 50)):
        groups = [Group(99, 5, 30, flagged[0]), Group(49, 2, 50, flagged[1])]
        pairs = np.outer(first.pmf(np.arange(31)), second.pmf(np.arange(51)))
        total = pairs[np.add.outer(np.arange(31), np.arange(51)) >= sum(flagged)].sum()
        assert flags_p_value(groups) == pytest.approx(total, rel=1e-6, abs=1e-12)
    assert flags_p_value([Group(99, 5, 30, 4), Group(49, 2, 0, 0)]) == pytest.approx(first.sf(3))


def test_flags_of_batches_like_their_calibration_images_raise_no_more_alarms_than_said():
    """The plain binomial test does not know that the rate beyond a threshold is itself random."""
    random = np.random.default_rng(0)
    thresholds = np.partition(random.random((2000, 99)), 94)[:, 94]
    assert thresholds[0] == conformal_threshold(np.random.default_rng(0).random((2000, 99))[0], 0.05).value
    flagged = (random.random((2000, 1000)) > thresholds[:, None]).sum(1)
    known = {count: flags_p_value([Group(99, 5, 1000, count)]) for count in range(flagged.max() + 1)}
    found, plain = np.array([known[count] for count in flagged]), binom(1000, 0.05).sf(flagged - 1)
    for level in (0.01, 0.05, 0.2):
        assert np.mean(found <= level) <= level + 4 * np.sqrt(level / 2000)
    assert np.mean(found <= 0.2) > 0.15 and np.mean(plain <= 0.01) > 0.15


def test_scores_are_compared_as_by_scipy():
    random = np.random.default_rng(1)
    own, other = random.normal(size=300), random.normal(0.2, size=80)
    assert scores_p_value(own, other) == pytest.approx(ks_2samp(own, other).pvalue)
    large = random.normal(size=20_000), random.normal(0.05, size=5000)
    assert scores_p_value(*large) == pytest.approx(ks_2samp(*large, method="asymp").pvalue)
    for ties in (own, np.zeros(300)):
        assert scores_p_value(ties, ties) == pytest.approx(1.0)


def plain_mmd2(x, y, width):
    """Gretton et al. (2012), equation 3, term by term."""

    def kernel(a, b):
        return np.exp(-((a[:, None] - b) ** 2).sum(-1) / (2 * width**2))

    n, m = len(x), len(y)
    inside = (kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
    return inside - 2 * kernel(x, y).mean()


def test_mmd_by_its_definition():
    random = np.random.default_rng(2)
    x, y = random.normal(size=(40, 5)), random.normal(0.5, size=(25, 5))
    both = np.concatenate([x, y])
    width = np.median(pdist(both))
    assert median_distance(squareform(pdist(both, "sqeuclidean"))) == pytest.approx(width, rel=1e-9)
    choice = np.zeros((1, 65), bool)
    choice[0, :40] = True
    assert unbiased_mmd2(both, choice)[0] == pytest.approx(plain_mmd2(x, y, width), rel=1e-9)


def test_vectors_of_one_kind_have_uniform_p_values_and_others_small_ones():
    random, found = np.random.default_rng(3), []
    for place in range(120):
        x, y = random.normal(size=(2, 20, 3))
        found.append(compare_vectors(x, y, seed=place, permutations=99).p_value)
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(found) <= level) - level) <= 4 * np.sqrt(level * (1 - level) / 120)
    wide = compare_vectors(random.normal(size=(100, 8)), 1.5 * random.normal(size=(80, 8)), seed=0)
    assert wide.p_value == 1 / 500 and wide.reference == 100 and wide.batch == 80, "same mean, wider"
    again = compare_vectors(x, y, seed=0), compare_vectors(x, y, seed=0)
    assert again[0] == again[1]


def test_of_many_vectors_some_are_drawn():
    random = np.random.default_rng(4)
    x, y = random.normal(size=(3000, 2)), random.normal(2, size=(1500, 2))
    found = compare_vectors(x, y, seed=0, permutations=19)
    assert (found.reference, found.batch, found.p_value) == (1000, 1000, 0.05)


def test_vectors_that_cannot_be_compared_are_refused():
    x = np.zeros((5, 3))
    with pytest.raises(InputError, match="3 wide, those of the batch 4; take both from one model"):
        compare_vectors(x, np.zeros((5, 4)), seed=0)
    with pytest.raises(InputError, match="the batch has 1 vector; at least 2 can be compared"):
        compare_vectors(x, x[:1], seed=0)
    with pytest.raises(InputError, match="vector 2 of the reference is NaN or infinite"):
        compare_vectors(np.where(np.arange(5)[:, None] == 2, np.nan, x), x, seed=0)
    assert compare_vectors(x, x, seed=0).p_value == 1.0, "all equal"
