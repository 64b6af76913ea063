"""Selective classification: against enumeration, scikit-learn and closed forms."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from sslood.core.errors import InputError
from sslood.ood.measures.risk import (
    aurc,
    aurc_with_ood,
    misclassification_metrics,
    own_mistakes,
    risk_coverage,
)


def test_aurc_equals_its_definition():
    random = np.random.default_rng(0)
    scores, wrong = random.normal(size=200), random.random(200) < 0.3
    kept = [wrong[scores <= limit] for limit in np.sort(scores)]
    found = aurc(scores, wrong)
    assert found["aurc"] == pytest.approx(np.mean([part.mean() for part in kept]), rel=1e-12)
    assert found["augrc"] == pytest.approx(np.mean([part.sum() / 200 for part in kept]), rel=1e-12)
    assert found["error"] == pytest.approx(wrong.mean(), rel=1e-12)


def test_ties_are_the_mean_over_all_orders():
    scores, wrong = np.array([1, 1, 1, 0, 2, 2]), np.array([True, False, False, False, True, False])
    orders = [
        np.array(order) for order in permutations(range(6)) if (np.diff(scores[list(order)]) >= 0).all()
    ]
    expected = np.mean([np.cumsum(wrong[order]) / np.arange(1, 7) for order in orders], axis=0)
    coverage, risk = risk_coverage(scores, wrong)
    np.testing.assert_allclose(risk, expected, rtol=1e-12)
    np.testing.assert_allclose(coverage, np.arange(1, 7) / 6)


def test_best_useless_and_worst_scores():
    wrong = np.arange(1000) < 100
    assert aurc(wrong.astype(float), wrong)["eaurc"] == 0.0
    # AURC of the best score is about r + (1 - r) log(1 - r) (Geifman et al. 2019, eq. 7)
    assert aurc(wrong.astype(float), wrong)["aurc"] == pytest.approx(0.1 + 0.9 * np.log(0.9), abs=1e-3)
    assert aurc(np.zeros(1000), wrong)["aurc"] == pytest.approx(0.1, rel=1e-12)
    assert aurc(-wrong.astype(float), wrong)["aurc"] > 0.3
    assert aurc(np.zeros(3), np.zeros(3, bool)) == {"aurc": 0, "eaurc": 0, "augrc": 0, "error": 0}


def test_misclassification_equals_scikit_learn():
    random = np.random.default_rng(1)
    wrong = random.random(300) < 0.2
    scores = (random.normal(size=300) + wrong).round(1)
    found = misclassification_metrics(scores, wrong)
    assert found["auroc"] == pytest.approx(roc_auc_score(wrong, scores), rel=1e-12)
    assert found["aupr_error"] == pytest.approx(average_precision_score(wrong, scores), rel=1e-12)
    assert found["aupr_success"] == pytest.approx(average_precision_score(~wrong, -scores), rel=1e-12)
    assert (found["n_right"], found["n_wrong"]) == ((~wrong).sum(), wrong.sum())


def test_refuses():
    for wrong in (np.zeros(4, bool), np.ones(4, bool)):
        with pytest.raises(InputError, match="of 4 predictions are wrong"):
            misclassification_metrics(np.arange(4), wrong)
    with pytest.raises(InputError, match="one bool per image"):
        aurc(np.arange(4), np.zeros(3, bool))
    with pytest.raises(InputError, match="one bool per image"):
        aurc(np.arange(4), np.zeros(4))
    with pytest.raises(InputError, match="NaN"):
        aurc([np.nan], [True])


def test_own_mistakes_are_those_of_the_highest_probability():
    random = np.random.default_rng(4)
    logits, labels = 3 * random.normal(size=(300, 4)), random.integers(4, size=300)
    labels[:200] = logits[:200].argmax(1)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = logits.argmax(1) != labels
    found = own_mistakes(logits, labels)
    assert found["mistakes_auroc"] == pytest.approx(roc_auc_score(wrong, -probability.max(1)), rel=1e-12)
    assert found["aurc"] == pytest.approx(aurc(-probability.max(1), wrong)["aurc"], rel=1e-12)
    assert set(own_mistakes(logits, logits.argmax(1))) == {"aurc", "eaurc", "augrc"}
    assert own_mistakes(1000 * logits, labels)["aurc"] > 0  # probabilities of 1 in float64 do not tie


def test_sure_predictions_do_not_tie():
    """Of gaps from 36 on the largest probability is 1.0 in float64; the order is that of the gaps."""
    gaps = np.array([38.0, 40.0, 50.0, 60.0, 37.0, 41.0, 300.0, 2000.0])
    logits = np.column_stack([np.zeros_like(gaps), gaps, np.full_like(gaps, -np.inf)])
    wrong = np.array([True, False, False, False, True, False, False, False])
    found = own_mistakes(logits, np.where(wrong, 0, 1))
    assert found["mistakes_auroc"] == roc_auc_score(wrong, -gaps) == 1.0
    assert found["aurc"] == aurc(-gaps, wrong)["aurc"]
    assert own_mistakes(np.zeros((4, 1)), np.zeros(4, int))["aurc"] == 0.0  # a single class has no rest


def mixed():
    random = np.random.default_rng(7)
    inside, outside = random.normal(size=90), random.normal(size=40) + 1
    return inside, random.random(90) < 0.2 + 0.2 * (inside > 0), outside


def test_aurc_with_ood_equals_its_definition():
    """The risk at each threshold, integrated over coverage, with both sides weighing a half."""
    inside, wrong, outside = mixed()
    area = covered = 0.0
    for limit in np.sort(np.concatenate([inside, outside])):
        accepted = (inside <= limit).mean() / 2 + (outside <= limit).mean() / 2
        failed = (wrong & (inside <= limit)).mean() / 2 + (outside <= limit).mean() / 2
        area += (accepted - covered) * failed / accepted
        covered = accepted
    assert aurc_with_ood(inside, wrong, outside)["aurc_ood"] == pytest.approx(area, rel=1e-12)


@pytest.mark.parametrize("decimals", [8, 0])
def test_at_the_sets_own_share_it_is_aurc_of_all_images(decimals):
    inside, wrong, outside = mixed()
    inside, outside = inside.round(decimals), outside.round(decimals)  # with ties too
    all_scores, failures = np.append(inside, outside), np.append(wrong, np.ones(40, bool))
    found, expected = aurc_with_ood(inside, wrong, outside, share=40 / 130), aurc(all_scores, failures)
    assert found["aurc_ood"] == pytest.approx(expected["aurc"], rel=1e-12)
    assert found["eaurc_ood"] == pytest.approx(expected["eaurc"], rel=1e-12)


def test_aurc_with_ood_of_ideal_and_useless_scores():
    wrong = np.arange(2000) < 200
    ideal = aurc_with_ood(wrong.astype(float), wrong, np.ones(500))
    # failures are 0.1 / 2 + 1 / 2 of all; r + (1 - r) log(1 - r), as above
    assert ideal["eaurc_ood"] == pytest.approx(0.0, abs=1e-15)
    assert ideal["aurc_ood"] == pytest.approx(0.55 + 0.45 * np.log(0.45), abs=1e-3)
    assert aurc_with_ood(np.zeros(2000), wrong, np.zeros(500))["aurc_ood"] == pytest.approx(0.55, rel=1e-12)


def test_aurc_with_ood_depends_on_no_order_and_no_size():
    inside, wrong, outside = mixed()
    inside, outside = inside.round(1), outside.round(1)
    order = np.random.default_rng(0).permutation(90)
    found = aurc_with_ood(inside, wrong, outside)["aurc_ood"]
    assert aurc_with_ood(inside[order], wrong[order], outside[::-1])["aurc_ood"] == pytest.approx(
        found, rel=1e-12
    )
    many = aurc_with_ood(inside, wrong, np.repeat(outside, 50))["aurc_ood"]
    assert many == pytest.approx(found, abs=0.01), "fifty copies of each OOD image weigh what one did"
    with pytest.raises(InputError, match="share of OOD images must be above 0"):
        aurc_with_ood(inside, wrong, outside, share=1.0)
    with pytest.raises(InputError, match="one bool per image"):
        aurc_with_ood(inside, wrong[1:], outside)
    with pytest.raises(InputError, match="no OOD scores"):
        aurc_with_ood(inside, wrong, [])
