"""Published variants against plain transcriptions of their rules, scikit-learn and pytorch-ood."""

import numpy as np
import pytest
import torch
from pytorch_ood.metrics import OODMetrics
from sklearn.metrics import auc, precision_recall_curve

from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.measures.published import aupr_rate_based, aupr_trapezoid, fpr95_nearest_point


def cases():
    random = np.random.default_rng(0)
    yield random.normal(size=300), random.normal(1, 1, size=200)
    yield random.integers(0, 8, 150), random.integers(3, 12, 90)
    yield np.zeros(7), np.zeros(7)
    yield np.array([0.0, -np.inf, 1.0]), np.array([np.inf, 2.0])


@pytest.mark.parametrize("own, other", list(cases()))
def test_nearest_point(own, other):
    limits = np.unique(np.concatenate([own, other]))[::-1]
    tpr = np.array([np.mean(own <= limit) for limit in limits])
    fpr = np.array([np.mean(other <= limit) for limit in limits])
    inside = np.append(tpr[1:] < 1, True)  # from the first that accepts all on, falling
    tpr, fpr = tpr[inside], fpr[inside]
    distance = np.abs(tpr - 0.95).round(12)
    assert fpr95_nearest_point(own, other) == pytest.approx(fpr[np.argmin(distance)])


def test_nearest_point_may_stand_below_the_level():
    own, other = np.arange(50), np.append(np.arange(40), [60] * 10)
    # 47 of 50 (94 %) is as near as 48 (96 %): the one that accepts more; ours takes the first at or above
    assert fpr95_nearest_point(own, other) == ood_metrics(own, other)["fpr95_id"]
    own = np.arange(51)  # 48 of 51 is 94.1 %, 49 is 96.1 %: the nearer is below 95 %
    other = np.array([48.0, 48.0, 60.0, 61.0])
    assert fpr95_nearest_point(own, other) == 0.0 and ood_metrics(own, other)["fpr95_id"] == 0.5


@pytest.mark.parametrize("own, other", list(cases()))
def test_rate_based(own, other):
    def area(positive, negative):  # thresholds from low to high, confidence of the positive side
        recall_before, total = 1.0, 0.0
        for limit in np.unique(np.concatenate([positive, negative])):
            recall, alarms = np.mean(positive >= limit), np.mean(negative >= limit)
            precision = recall / (recall + alarms)
            total += (recall_before - recall) * precision
            recall_before = recall
        return total + recall * precision

    found = aupr_rate_based(own, other)
    assert found["aupr_in"] == pytest.approx(area(-own, -other))
    assert found["aupr_out"] == pytest.approx(area(other, own))


@pytest.mark.parametrize("own, other", list(cases()))
def test_trapezoid_equals_scikit_learn(own, other):
    scores = np.nan_to_num(np.concatenate([own, other]), posinf=1e9, neginf=-1e9)
    truth = np.append(np.zeros(len(own)), np.ones(len(other)))
    found = aupr_trapezoid(own, other)
    for key, positive, sign in (("aupr_out", truth, 1), ("aupr_in", 1 - truth, -1)):
        precision, recall, _ = precision_recall_curve(positive, sign * scores)
        assert found[key] == pytest.approx(auc(recall, precision), rel=1e-12)


def test_trapezoid_equals_pytorch_ood():
    own, other = next(cases())
    theirs = OODMetrics()
    labels = torch.cat([torch.zeros(len(own)), -torch.ones(len(other))])
    theirs.update(torch.from_numpy(np.concatenate([own, other])), labels)
    theirs, ours = theirs.compute(), aupr_trapezoid(own, other)
    assert ours["aupr_in"] == pytest.approx(float(theirs["AUPR-IN"]), rel=1e-6)
    assert ours["aupr_out"] == pytest.approx(float(theirs["AUPR-OUT"]), rel=1e-6)
    assert ood_metrics(own, other)["fpr95_ood"] == pytest.approx(float(theirs["FPR95TPR"]), rel=1e-6)


def test_constant_scores_show_the_difference():
    same = np.zeros(10)
    assert aupr_trapezoid(same, same) == {"aupr_in": 0.75, "aupr_out": 0.75}
    assert aupr_rate_based(same, same) == {"aupr_in": 0.5, "aupr_out": 0.5}
    assert ood_metrics(same, same)["aupr_in"] == 0.5
