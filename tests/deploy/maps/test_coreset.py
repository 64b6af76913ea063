"""Greedy k-centre against the definition, the best choice and clusters that are known."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from sslood.deploy.maps.coreset import WIDTH, k_centre


def radius(rows, places) -> float:
    return float(cdist(rows, rows[list(places)]).min(axis=1).max())


def test_each_row_is_the_farthest_from_those_before():
    rows = np.random.default_rng(0).normal(size=(60, 5))
    places = k_centre(rows, 20, seed=3)
    assert len(places) == 20
    for step in range(1, 20):
        assert cdist(rows, rows[places[:step]]).min(axis=1).argmax() == places[step]


@pytest.mark.parametrize("seed", range(5))
def test_the_farthest_row_is_at_most_twice_as_far_as_it_must_be(seed):
    rows = np.random.default_rng(seed).normal(size=(12, 2))
    best = min(radius(rows, places) for places in combinations(range(12), 3))
    assert radius(rows, k_centre(rows, 3, seed)) <= 2 * best


def test_wide_rows_give_one_of_each_cluster():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(9, 3 * WIDTH))
    cluster = np.repeat(np.arange(9), 20)
    rows = centres[cluster] + 0.1 * rng.normal(size=(180, 3 * WIDTH))
    assert set(cluster[k_centre(rows.astype(np.float32), 9, 0)]) == set(range(9))


def test_equal_rows_are_taken_once():
    rows = np.repeat(np.random.default_rng(0).normal(size=(4, 200)), 25, axis=0)
    places = k_centre(rows, 50, 0)
    assert len(places) == 4 and len({tuple(row) for row in rows[places]}) == 4
    assert len(k_centre(np.zeros((3, 2)), 2, 0)) == 1
