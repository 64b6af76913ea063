"""Metrics against scikit-learn, pytorch-ood and closed forms, and the properties any metric must have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.metrics import OODMetrics
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from sslood.core.errors import InputError
from sslood.ood.measures.metrics import METRICS, ood_metrics

scores = st.lists(st.integers(-5, 5).map(float) | st.just(np.inf) | st.just(-np.inf), min_size=1, max_size=40)


def reference(id_scores, ood_scores):
    """The same numbers from scikit-learn's curves; ranks stand in for infinities, which it refuses."""
    values, ranks = np.unique(np.concatenate([id_scores, ood_scores]), return_inverse=True)
    y = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]
    weight = np.where(y == 1, 1 / len(ood_scores), 1 / len(id_scores))
    fpr, tpr, _ = roc_curve(y, ranks, drop_intermediate=False)
    fpr_id, tpr_id, _ = roc_curve(1 - y, -ranks, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(y, ranks),
        "fpr95_ood": fpr[np.argmax(tpr >= 0.95 - 1e-12)],
        "fpr95_id": fpr_id[np.argmax(tpr_id >= 0.95 - 1e-12)],
        "aupr_out": average_precision_score(y, ranks),
        "aupr_in": average_precision_score(1 - y, -ranks),
        "aupr_out_balanced": average_precision_score(y, ranks, sample_weight=weight),
        "aupr_in_balanced": average_precision_score(1 - y, -ranks, sample_weight=weight),
        "detection_error": (0.5 * (1 - tpr) + 0.5 * fpr).min(),
    }


def made(kind, n_id, n_ood):
    random = np.random.default_rng(n_id)
    a, b = random.normal(size=n_id), random.normal(0.8, 1.5, size=n_ood)
    if kind == "tied":
        return a.round(), b.round()
    if kind == "infinite":
        return np.where(a > 1, np.inf, a), np.where(b < -1, -np.inf, np.where(b > 1, np.inf, b))
    if kind == "tiny":
        return a * 1e-300, b * 1e-300
    return a, b


@pytest.mark.parametrize("kind", ["random", "tied", "infinite", "tiny"])
@pytest.mark.parametrize("sizes", [(1, 1), (20, 3), (100, 100), (999, 5001)])
def test_equals_scikit_learn(kind, sizes):
    pair = made(kind, *sizes)
    ours, theirs = ood_metrics(*pair), reference(*pair)
    for name in METRICS:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12), name
    assert (ours["n_id"], ours["n_ood"]) == sizes


def test_equals_scikit_learn_on_a_million():
    random = np.random.default_rng(0)
    pair = random.normal(size=10**6), random.normal(1, 1, size=10**6)
    y = np.r_[np.zeros(10**6), np.ones(10**6)]
    ours = ood_metrics(*pair)
    assert ours["auroc"] == pytest.approx(roc_auc_score(y, np.concatenate(pair)), abs=1e-12)
    assert ours["aupr_out"] == pytest.approx(average_precision_score(y, np.concatenate(pair)), abs=1e-10)


def test_equals_pytorch_ood():
    pair = made("random", 2000, 3000)
    theirs = OODMetrics()
    y = torch.cat([torch.ones(2000), -torch.ones(3000)])
    theirs.update(torch.from_numpy(np.concatenate(pair)), y)
    theirs, ours = theirs.compute(), ood_metrics(*pair)
    assert ours["auroc"] == pytest.approx(float(theirs["AUROC"]), abs=1e-9)
    assert ours["fpr95_ood"] == pytest.approx(float(theirs["FPR95TPR"]), abs=1e-9)
    # theirs are trapezoids, ours average precision: close where nothing ties
    assert ours["aupr_out"] == pytest.approx(float(theirs["AUPR-OUT"]), abs=1e-3)
    assert ours["aupr_in"] == pytest.approx(float(theirs["AUPR-IN"]), abs=1e-3)


def test_perfect_scores_are_exactly_perfect():
    found = ood_metrics(np.arange(7.0), 10 + np.arange(33.0))
    for name in ("auroc", "aupr_in", "aupr_out", "aupr_in_balanced", "aupr_out_balanced"):
        assert found[name] == 1.0, name
    assert found["fpr95_id"] == found["fpr95_ood"] == found["detection_error"] == 0.0


@pytest.mark.parametrize("value", [0.0, 3.5, np.inf, -np.inf])
def test_constant_scores_are_worth_nothing(value):
    found = ood_metrics(np.full(30, value), np.full(10, value))
    assert found["auroc"] == 0.5
    assert found["fpr95_id"] == found["fpr95_ood"] == 1.0
    assert found["detection_error"] == 0.5
    assert found["aupr_in"] == 0.75 and found["aupr_out"] == 0.25
    assert found["aupr_in_balanced"] == found["aupr_out_balanced"] == 0.5


def test_level_is_reached_exactly():
    # 19 of 20 is 95 %: the last ID image and the lowest OOD image are given up
    id_scores = np.r_[np.zeros(19), 5.0]
    assert ood_metrics(id_scores, [1.0])["fpr95_id"] == 0.0
    assert ood_metrics(np.r_[np.zeros(18), 5.0, 5.0], [1.0])["fpr95_id"] == 1.0
    assert ood_metrics([1.0], np.r_[np.full(19, 2.0), 0.0])["fpr95_ood"] == 0.0
    assert ood_metrics([1.0], np.r_[np.full(18, 2.0), 0.0, 0.0])["fpr95_ood"] == 1.0


@pytest.mark.parametrize(
    "bad", [([], [1.0]), ([1.0], []), ([np.nan, 1.0], [1.0]), ([1.0], [np.nan]), ([[1.0]], [1.0])]
)
def test_refuses(bad):
    with pytest.raises(InputError):
        ood_metrics(*bad)


def test_says_how_many_are_nan():
    with pytest.raises(InputError, match="2 of 3 OOD scores are NaN"):
        ood_metrics([0.0], [np.nan, 1.0, np.nan])


@settings(max_examples=100, deadline=None)
@given(scores, scores)
def test_properties(a, b):
    a, b = np.array(a), np.array(b)
    found = ood_metrics(a, b)
    assert found == ood_metrics(a[::-1], b[::-1]), "order"
    assert found == ood_metrics(np.arctan(a), np.arctan(b)), "monotone transform"
    swapped = ood_metrics(-b, -a)
    for one, other in (("auroc", "auroc"), ("fpr95_id", "fpr95_ood"), ("aupr_in", "aupr_out")):
        assert found[one] == pytest.approx(swapped[other], abs=1e-12)
    assert found["aupr_in_balanced"] == pytest.approx(swapped["aupr_out_balanced"], abs=1e-12)
    assert found["auroc"] == pytest.approx(1 - ood_metrics(b, a)["auroc"], abs=1e-12)
    twice = ood_metrics(np.repeat(a, 3), np.repeat(b, 3))
    for name in METRICS:
        assert found[name] == pytest.approx(twice[name], abs=1e-12), name
        assert 0.0 <= found[name] <= 1.0
