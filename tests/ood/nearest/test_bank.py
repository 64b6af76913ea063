"""Nearest neighbours of every precision against brute force in float64."""

import numpy as np
import pytest
import torch

from sslood.ood.geometry.nearest import bank as bank_module
from sslood.ood.geometry.nearest import shortlist
from sslood.ood.geometry.nearest.bank import directions
from sslood.ood.geometry.nearest.shortlist import BFloat16, Float32

WIDTH, COUNT = bank_module.WIDE, 2500


def kth_distance(bank, queries, k):
    return bank_module.kth_distance(torch.from_numpy(bank), torch.from_numpy(queries), k).numpy()


def mean_largest_product(bank, queries, k):
    return bank_module.mean_largest_product(torch.from_numpy(bank), torch.from_numpy(queries), k).numpy()


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
    names, plain = [], bank_module.shortlist

    def spy(precision, *args, **named):
        names.append(type(precision).__name__)
        return plain(precision, *args, **named)

    monkeypatch.setattr(bank_module, "shortlist", spy)
    monkeypatch.setattr(bank_module, "multiplies_bf16", lambda: True)
    return names


def test_blocks_of_the_bank_find_what_the_whole_bank_has(monkeypatch):
    """Few queries: every product is computed in float64, and the bank is never there as a whole."""
    bank, queries = clustered(COUNT, 0), clustered(5, 1)
    whole = kth_distance(bank, queries, 7), mean_largest_product(bank, queries, 7)
    widths, plain = [], bank_module.product
    monkeypatch.setattr(bank_module, "ROWS", 300 * WIDTH)
    monkeypatch.setattr(bank_module, "product", lambda x, y: widths.append(y.shape[1]) or plain(x, y))
    blocks = kth_distance(bank, queries, 7), mean_largest_product(bank, queries, 7)
    assert max(widths) == 300 and sum(widths) == 2 * COUNT
    np.testing.assert_array_equal(blocks[0], whole[0])
    np.testing.assert_allclose(blocks[1], whole[1], rtol=1e-14)
    np.testing.assert_allclose(blocks[0], np.sort(exact(bank, queries), axis=1)[:, 6], rtol=1e-12)
    np.testing.assert_allclose(kth_distance(bank, queries, 700), np.sort(exact(bank, queries), 1)[:, 699])


@pytest.mark.parametrize("native", [True, False])
def test_a_bank_larger_than_a_block_is_met_by_fewer_queries_at_a_time(tried, monkeypatch, native):
    monkeypatch.setattr(bank_module, "multiplies_bf16", lambda: native)
    monkeypatch.setattr(bank_module, "BANK", COUNT // 4)
    bank, queries = clustered(COUNT, 0), clustered(300, 1)
    expected = np.sort(exact(bank, queries), axis=1)[:, 6]
    np.testing.assert_allclose(kth_distance(bank, queries, 7), expected, rtol=1e-12, atol=0)
    products = np.sort(queries.astype(np.float64) @ bank.T.astype(np.float64), axis=1)[:, -7:].mean(1)
    np.testing.assert_allclose(mean_largest_product(bank, queries, 7), products, rtol=1e-12, atol=0)
    assert tried, "no shortlist"


@pytest.mark.parametrize("k", [1, 7, 39])
@pytest.mark.parametrize("native", [True, False])
def test_the_kth_distance_is_that_of_brute_force(tried, monkeypatch, native, k):
    monkeypatch.setattr(bank_module, "multiplies_bf16", lambda: native)
    monkeypatch.setattr(shortlist, "MOST", 60)
    bank, queries = clustered(COUNT, 0), clustered(300, 1)
    bank[5::50], queries[3] = bank[4::50], bank[9]  # pairs of one place
    queries[4] = 0.0
    bank[730:740] = bank[730] * np.float32(-1)
    expected = np.sort(exact(bank, queries), axis=1)[:, k - 1]
    np.testing.assert_allclose(kth_distance(bank, queries, k), expected, rtol=1e-12, atol=0)
    assert tried[-1] == ("BFloat16" if native else "Float32")


@pytest.mark.parametrize("spread", [5e-3, 0.0])
def test_rows_too_close_for_a_precision_are_left_to_the_next(tried, spread):
    """bfloat16 does not separate clusters of 250 rows that are so narrow; equal rows need float64."""
    bank, queries = clustered(COUNT, 0, spread), clustered(200, 1)
    nearest = np.sort(exact(bank, queries), axis=1)[:, 2]
    np.testing.assert_allclose(kth_distance(bank, queries, 3), nearest, rtol=0, atol=1e-12)
    assert set(tried) == {"BFloat16", "Float32"}


def test_rows_of_zeros_are_at_distance_one():
    bank, queries = clustered(COUNT, 0), clustered(300, 1)
    bank[::2], queries[4] = 0.0, 0.0
    for k in (1, 300, 2400):
        expected = np.sort(exact(bank, queries), axis=1)[:, k - 1]
        np.testing.assert_allclose(kth_distance(bank, queries, k), expected, rtol=1e-12, atol=1e-12)
    assert (kth_distance(bank, bank[:9], 1) == 0).all(), "an image is at distance zero from itself"


def test_a_long_bank_is_searched_in_blocks(monkeypatch):
    bank, queries = clustered(COUNT, 0), clustered(50, 1)
    whole = kth_distance(bank, queries, 30)
    monkeypatch.setattr(bank_module, "ROWS", 3 * COUNT)
    np.testing.assert_allclose(kth_distance(bank, queries, 30), whole, rtol=1e-12)


def test_the_mean_of_the_largest_products_is_that_of_brute_force(tried):
    bank, queries = clustered(COUNT, 0), clustered(300, 1)
    bank *= np.random.default_rng(0).uniform(1, 30, size=(COUNT, 1)).astype(np.float32)
    products = queries.astype(np.float64) @ bank.T.astype(np.float64)
    for k in (1, 10):
        expected = np.sort(products, axis=1)[:, -k:].mean(axis=1)
        np.testing.assert_allclose(mean_largest_product(bank, queries, k), expected, rtol=1e-12)
    assert "BFloat16" in tried


@pytest.mark.parametrize("precision", [BFloat16, Float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_no_product_is_further_off_than_its_margin_says(precision, scale):
    bank, queries = scale * clustered(600, 0), clustered(150, 1, spread=3.0)
    queries[0] = bank[0] - bank[0].astype(np.float16)  # tiny numbers
    made = precision(bank, len(queries))
    keys, margin = made.products(queries)
    found, true = made.values(keys).astype(np.float64), queries.astype(np.float64) @ bank.T.astype(np.float64)
    off = np.abs(found - true) - made.unit * np.abs(found)
    assert (off <= margin[:, None] / 2).all()
    assert (off > margin[:, None] / 100).any(), "a margin so wide lets everything pass"
