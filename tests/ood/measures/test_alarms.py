"""Decisions at a fixed rate: against counting, scipy, and simulated ID images."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from sslood.core.errors import InputError
from sslood.ood.measures.alarms import HALVES, VALIDATION, by_class, halved_rule, held_out_rule


def test_the_threshold_of_validation_flags_what_is_above_it():
    rule = held_out_rule(np.arange(99.0), 0.1)  # (99 + 1) * 0.9 = 90, the 90th smallest is 89
    assert rule.thresholds == (89.0,) and rule.source == VALIDATION
    scores = np.array([88.0, 89.0, 89.5, 200.0])
    assert rule.of_id(scores).tolist() == [False, False, True, True]
    assert rule.share(scores) == 0.5


def test_no_image_is_judged_by_a_threshold_that_it_helped_to_make():
    """An outlier moves the threshold of its own half alone, so it moves decisions of the other half alone."""
    scores = np.random.default_rng(0).normal(size=200)
    rule = halved_rule(scores, 0.05)
    assert rule.source == HALVES and rule.half.sum() == 100
    for own in (False, True):
        part = np.sort(scores[rule.half == own])
        assert rule.thresholds[int(own)] == part[95], "ceil(101 * 0.95) = 96"
    expected = [
        score > rule.thresholds[0 if half else 1] for score, half in zip(scores, rule.half, strict=True)
    ]
    np.testing.assert_array_equal(rule.of_id(scores), expected)
    others = np.linspace(-3, 3, 41)
    assert rule.share(others) == pytest.approx(np.mean([(others > t).mean() for t in rule.thresholds]))
    with pytest.raises(InputError, match="made from 200 ID test images, found 41"):
        rule.of_id(others)


def test_the_rate_of_both_rules_is_alpha_over_many_draws():
    random = np.random.default_rng(1)
    held, halved = [], []
    for _ in range(400):
        calibration, test = random.random((2, 200))
        held.append(held_out_rule(calibration, 0.05).of_id(test).mean())
        halved.append(halved_rule(test, 0.05).of_id(test).mean())
    for rates, exact in ((held, 10 / 201), (halved, 5 / 101)):  # l / (n + 1), of Beta(l, n + 1 - l)
        assert np.mean(rates) == pytest.approx(exact, abs=4 * np.std(rates) / 20)


def test_too_few_images_make_no_rule():
    assert held_out_rule(np.arange(18), 0.05) is None and held_out_rule(np.arange(19), 0.05)
    assert halved_rule(np.arange(37), 0.05) is None and halved_rule(np.arange(38), 0.05)
    with pytest.raises(InputError, match="infinite"):
        held_out_rule(np.append(np.arange(30.0), np.inf), 0.05)
    with pytest.raises(InputError, match="NaN"):
        halved_rule([np.nan] * 40, 0.05)
    with pytest.raises(InputError, match="alpha must be above 0"):
        held_out_rule(np.arange(30.0), 0.0)


def test_classes_are_counted_and_their_inequality_is_pearsons():
    random = np.random.default_rng(2)
    labels = random.integers(-1, 5, 3000)
    flagged = random.random(3000) < 0.02 * (labels + 2)
    found = by_class(flagged, labels, 7)  # classes 5 and 6 have no image
    for name in range(5):
        assert found.shares[name] == flagged[labels == name].mean()
        assert found.images[name] == (labels == name).sum()
    assert np.isnan(found.shares[5:]).all() and found.images[5:].tolist() == [0, 0]
    table = [[(flagged & (labels == k)).sum(), (~flagged & (labels == k)).sum()] for k in range(5)]
    assert found.p_value == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=1e-9)
    assert found.spread == pytest.approx(np.std(found.shares[:5], ddof=1), rel=1e-12)


def test_where_classes_cannot_be_compared():
    labels = np.array([0, 0, 1, 1])
    for flagged in (np.zeros(4, bool), np.ones(4, bool)):
        found = by_class(flagged, labels, 2)
        assert np.isnan(found.p_value) and found.spread == 0.0
    assert np.isnan(by_class(labels > 5, np.zeros(4, int), 1).spread)
    unknown = by_class(np.ones(4, bool), np.full(4, -1), 2)
    assert unknown.images.sum() == 0 and np.isnan(unknown.shares).all()
    with pytest.raises(InputError, match="label 1 is none of 1 classes"):
        by_class(np.ones(4, bool), labels, 1)
    with pytest.raises(InputError, match="one for each of"):
        by_class(np.ones(3, bool), labels, 2)
