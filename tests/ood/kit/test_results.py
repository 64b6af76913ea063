"""Rounding of scores: what depends on the processor goes, ranks and small differences stay."""

import numpy as np
import pytest

from sslood.core.errors import LeftOut
from sslood.ood.kit.results import BITS, Results, rounded
from sslood.ood.measures.metrics import ood_metrics


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (1e-4, 2.3), (1e8, -5.0)])
def test_noise_of_float64_goes_and_ranks_stay(scale, offset):
    random = np.random.default_rng(0)
    scores = offset + scale * random.standard_t(2, size=2000)  # tails that reach far
    noisy = scores * (1 + 2e-16 * random.choice([-1, 1], size=2000))
    first, second = (rounded(one, one) for one in (scores, noisy))
    np.testing.assert_array_equal(first, second)
    order = np.argsort(scores, kind="stable")
    assert (np.diff(first[order]) >= 0).all(), "a pair changed its order"
    spread = np.median(np.abs(scores - np.median(scores)))
    assert np.abs(first - scores).max() <= 2.0**-BITS * max(2 * spread, 2 * np.abs(scores - offset).max())
    assert np.abs(first - scores)[np.abs(scores - offset) < spread].max() <= 2.0**-BITS * 2 * spread


def test_small_scores_beside_large_ones_keep_their_digits():
    scores = np.array([1e-9, 2e-9, 3e-9, 1.0, 1e6])
    found = rounded(scores, scores[:3])
    np.testing.assert_allclose(found, scores, rtol=2e-6)
    assert len(set(found)) == 5


def test_infinite_and_constant_scores_stay():
    scores = np.array([-np.inf, 0.0, 1.5, np.inf])
    np.testing.assert_array_equal(rounded(scores, scores), scores)
    np.testing.assert_array_equal(rounded(np.full(4, 0.25), np.full(4, 0.25)), np.full(4, 0.25))
    np.testing.assert_array_equal(rounded(scores, np.full(2, np.inf)), scores)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["id", "far"])
def test_scores_that_are_not_finite_count_nowhere(value, name):
    scores = {"id": np.arange(5.0), "far": np.arange(3.0)}
    scores[name][1] = value
    size = len(scores[name])
    with pytest.raises(LeftOut, match=f"m, knn: 1 of {size} scores of '{name}' are NaN or infinite"):
        Results("posthoc", 0, "id").add("m", "knn", scores)


def test_metrics_are_those_of_the_rounded_scores():
    random, results = np.random.default_rng(1), Results("posthoc", 0, "id")
    results.add("model", "knn", {"id": random.normal(size=90), "far": random.normal(1, 1, size=70)})
    pair = (results.scores[f"model.knn.{name}"] for name in ("id", "far"))
    assert results.models["model"]["knn"]["far"] == ood_metrics(*pair)
