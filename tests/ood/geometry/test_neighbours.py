"""Nearest neighbours of every precision against brute force in float64."""

import numpy as np
import pytest

from sslood.ood.geometry import neighbours, shortlist
from sslood.ood.geometry.directions import directions
from sslood.ood.geometry.neighbours import kth_distance, mean_largest_product
from sslood.ood.geometry.shortlist import BFloat16, Float32

WIDTH, COUNT = neighbours.WIDE, 2500


def clustered(count, seed, spread=0.5):
    """Directions about ten centres, with a spectrum that falls as a network's does."""
    centres = np.random.default_rng(7).normal(size=(10, WIDTH))
    random = np.random.default_rng(seed)
    rows = centres[np.arange(count) % 10] + spread * random.normal(size=(count, WIDTH))
    return directions(rows / np.sqrt(np.arange(1, WIDTH + 1)))


def exact(bank, queries):
    """Distances [Q, N] in float64, from differences."""
    return np.stack([np.linalg.norm(bank.astype(np.float64) - query, axis=1) for query in queries])


@pytest.fixture
def tried(monkeypatch):
    """Which precisions were tried; bfloat16 is one of them, whatever the processor."""
    names, plain = [], neighbours.shortlist

    def spy(way, *args, **named):
        names.append(type(way).__name__)
        return plain(way, *args, **named)

    monkeypatch.setattr(neighbours, "shortlist", spy)
    monkeypatch.setattr(neighbours, "multiplies_bf16", lambda: True)
    return names


@pytest.mark.parametrize("k", [1, 7, 39])
@pytest.mark.parametrize("native", [True, False])
def test_the_kth_distance_is_that_of_brute_force(tried, monkeypatch, native, k):
    monkeypatch.setattr(neighbours, "multiplies_bf16", lambda: native)
    monkeypatch.setattr(shortlist, "MOST", 60)
    bank, queries = clustered(COUNT, 0), clustered(300, 1)
    bank[5::50], queries[3] = bank[4::50], bank[9]  # pairs of one place
    bank[700:720], queries[4] = 0.0, 0.0
    bank[730:740] = bank[730] * np.float32(-1)
    expected = np.sort(exact(bank, queries), axis=1)[:, k - 1]
    np.testing.assert_allclose(kth_distance(bank, queries, k), expected, rtol=1e-12, atol=0)
    assert tried[-1] == ("BFloat16" if native and k < 39 else "Float32")  # 39: a zero query has no nearest


@pytest.mark.parametrize("spread, close", [(5e-3, 1e-12), (0.0, 1e-6)])
def test_rows_too_close_for_a_precision_are_left_to_the_next(tried, spread, close):
    """bfloat16 does not tell clusters of 250 rows apart that are so narrow; equal rows, no precision does."""
    bank, queries = clustered(COUNT, 0, spread), clustered(200, 1)
    nearest = np.sort(exact(bank, queries), axis=1)[:, 2]
    np.testing.assert_allclose(kth_distance(bank, queries, 3), nearest, rtol=0, atol=close)
    assert set(tried) == {"BFloat16", "Float32"}


def test_the_mean_of_the_largest_products_is_that_of_brute_force(tried):
    bank, queries = clustered(COUNT, 0), clustered(300, 1)
    bank *= np.random.default_rng(0).uniform(1, 30, size=(COUNT, 1)).astype(np.float32)
    products = queries.astype(np.float64) @ bank.T.astype(np.float64)
    for k in (1, 10):
        expected = np.sort(products, axis=1)[:, -k:].mean(axis=1)
        np.testing.assert_allclose(mean_largest_product(bank, queries, k), expected, rtol=1e-12)
    assert "BFloat16" in tried


@pytest.mark.parametrize("way", [BFloat16, Float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_no_product_is_further_off_than_its_margin_says(way, scale):
    bank, queries = scale * clustered(600, 0), clustered(150, 1, spread=3.0)
    queries[0] = bank[0] - bank[0].astype(np.float16)  # tiny numbers
    made = way(bank, len(queries))
    form, margin = made.products(queries)
    found, true = made.values(form).astype(np.float64), queries.astype(np.float64) @ bank.T.astype(np.float64)
    off = np.abs(found - true) - made.unit * np.abs(found)
    assert (off <= margin[:, None] / 2).all()
    assert (off > margin[:, None] / 100).any(), "a margin so wide lets everything pass"
