"""Stratified cuts against exact counts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sslood.core.splits import quotas, stratified_choice, stratified_cut


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.floats(0, 1))
def test_quotas_are_whole_and_in_proportion(counts, share):
    counts = np.array(counts)
    total = round(share * counts.sum())
    quota = quotas(counts, total)
    assert quota.sum() == total and (quota <= counts).all()
    assert np.abs(quota - counts * total / counts.sum()).max() < 1


def test_cut_is_a_partition_with_every_class_in_proportion():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    rest, part = stratified_cut(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[part]).tolist() == [5, 3, 2]
    assert np.array_equal(np.sort(np.concatenate([rest, part])), np.arange(100))


def test_seed_decides():
    labels = np.arange(100) % 4
    one, same, other = (stratified_choice(labels, 20, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert len(set(one.tolist())) == 20 and (np.diff(one) > 0).all()
    assert len(stratified_choice(labels, 1000, np.random.default_rng(0))) == 100


def test_each_class_that_has_as_many_gets_the_least_of_it():
    labels = np.repeat([0, 1, 2], [900, 50, 1])
    rows = stratified_choice(labels, 10, np.random.default_rng(0), least=1)
    assert np.bincount(labels[rows]).tolist() == [8, 1, 1]
    rows = stratified_choice(labels, 10, np.random.default_rng(0), least=2)
    assert np.bincount(labels[rows]).tolist() == [7, 2, 1]
    even = np.arange(90) % 3
    same = [stratified_choice(even, 9, np.random.default_rng(1), least=least) for least in (0, 1)]
    assert np.array_equal(*same)
