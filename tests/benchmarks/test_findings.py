"""What the findings count: reversed pairs, ties, thresholds, images left out, chains."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from benchmarks.definitions import certain, closest_fpr95, few_bits, in_favour, viewed
from benchmarks.findings import Candidates, kept, optimism, rank, reversed_pairs, significant
from benchmarks.resizing import chains_of
from sslood.ood.measures.comparison import Scores
from sslood.ood.measures.metrics import ood_metrics


def drawn(shift: float, count: int = 400, seed: int = 0) -> Scores:
    random = np.random.default_rng(seed)
    return Scores(random.normal(size=count), random.normal(shift, size=count))


def test_pairs_are_reversed_only_where_both_orders_are_strict():
    """Of a, b, c with 3, 2, 1 before: 1, 2, 1 after reverses (a, b) alone, since a and c are level."""
    assert reversed_pairs([3, 2, 1], [1, 2, 1]) == [(0, 1)] and reversed_pairs([1, 2], [1, 2]) == []
    assert rank([0.1, 0.9, 0.5], 1) == 1 and rank([0.1, 0.9, 0.5], 0) == 3


def test_a_pair_counts_as_significant_only_if_it_differs_in_both_orders():
    weak, strong = drawn(0.2), drawn(3, seed=1)
    assert significant([(0, 1)], [strong, weak], [weak, strong]) == 1
    assert significant([(0, 1)], [strong, weak], [weak, drawn(0.2, seed=2)]) == 0


def test_a_pair_is_certainly_reversed_if_nearly_every_draw_says_so():
    first = np.tile([1.0, 0.0], (40, 1))
    second = 1 - first
    assert certain(first, second) == 1
    second[:2] = first[:2]  # 95 % of the draws
    assert certain(first, second) == 0


def test_the_nearest_threshold_may_accept_fewer_than_95_percent():
    """ID scores 0 … 9: 9 in 10 and 10 in 10 are equally near to 95 %, and the lower threshold is taken."""
    inside, outside = np.arange(10.0), np.array([8.5, 9.5, 9.0])
    assert closest_fpr95(Scores(inside, outside)) == 0 and ood_metrics(inside, outside)["fpr95_id"] == 2 / 3
    false, true, _ = roc_curve(np.r_[np.ones(400), np.zeros(400)], np.r_[-drawn(1).id, -drawn(1).ood])
    assert closest_fpr95(drawn(1)) == pytest.approx(false[np.abs(true - 0.95).argmin()], abs=0.0026)


def test_ties_in_favour_are_right_and_against_wrong():
    """ID 0, 1, OOD 1, 2: of four pairs three are right and one is tied."""
    inside, outside = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    assert in_favour(Scores(inside, outside)) == 1 and 1 - in_favour(Scores(outside, inside)) == 0.75


def test_few_bits_saturate():
    found = few_bits(np.array([[20.0, 0.0], [9.0, 0.0]], np.float32))
    ones = {name: int((scores == -1).sum()) for name, scores in found.items()}
    assert ones == {"float64": 0, "float32": 1, "float16": 2, "4 decimals": 1, "2 decimals": 2}


def test_reasons_leave_images_out():
    left_out, why = np.array([1, 3, 4]), np.array([2, 4, 5], np.uint8)
    assert kept(6, left_out, why, 3).tolist() == [True, False, True, True, False, True]
    assert kept(6, left_out, why, 4).sum() == 4 and kept(6, left_out, why, 0).all()


def test_choosing_on_a_test_set_gains_what_the_better_candidate_has():
    good, bad = drawn(2), drawn(0.5, seed=1)
    scores = {
        "cifar10": np.stack([bad.id, good.id]), "cifar100": np.stack([bad.ood, good.ood]),
        "validation": np.stack([good.id, bad.id]), "tuning": np.stack([good.ood, bad.ood]),
    }  # fmt: skip
    found = Candidates("x", [{"k": 1}, {"k": 2}], scores)
    gain, half, best = optimism(found, "cifar100")
    assert found.own == 0 and best == 1
    assert gain.value == pytest.approx(np.diff(found.aurocs("cifar100"))[0]) and half > 0.1


def test_fewer_ood_images_make_aupr_harder():
    """AUPR with OOD positive falls with the share of OOD images; AUROC does not know it."""
    scores = drawn(1)
    found = viewed(scores, np.arange(80))
    assert found["aupr_out_5"] < found["aupr_out"] - 0.1
    assert found["fpr95_id"] == pytest.approx(1 - (scores.ood <= np.sort(scores.id)[379]).mean())


def test_chains_differ_as_they_should():
    """A board of single black and white pixels: means are grey, every second pixel is one colour."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    found = chains_of(np.broadcast_to(board, (1, 3, 64, 64)).astype(np.uint8))
    assert (np.abs(found["mean of 2 x 2"].astype(int) - 127) <= 1).all()
    assert np.unique(found["every second pixel"]).size == 1 and found["ours"].shape == (1, 3, 32, 32)
    assert np.abs(found["ours"][:, :, 2:-2, 2:-2].astype(int) - 127).max() <= 2
