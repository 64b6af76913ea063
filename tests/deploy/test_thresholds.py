"""Thresholds: coverage by simulation, p-values by counting, false discoveries against scipy."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta, false_discovery_control, kstest

from sslood.core.errors import InputError
from sslood.deploy.thresholds import (
    adjusted_p_values,
    discoveries,
    in_percent,
    p_values,
    times,
)
from sslood.ood.measures.conformal import conformal_threshold, images_needed


@pytest.mark.parametrize("count, alpha", [(19, 0.05), (100, 0.05), (73, 0.29), (500, 0.1)])
def test_coverage_and_its_distribution_over_10000_calibration_sets(count, alpha):
    draws = np.random.default_rng(count).random((10_000, count))  # a uniform score is its own rate
    found = [conformal_threshold(row, alpha) for row in draws]
    rates = 1 - np.array([threshold.value for threshold in found])
    exact = np.floor((count + 1) * alpha + 1e-9)
    error = 4 * rates.std() / 100
    assert rates.mean() <= alpha + error, "more ID images are called OOD than asked"
    assert rates.mean() > alpha - 1 / (count + 1) - error, "the slack is below 1 / (n + 1)"
    assert kstest(rates, beta(exact, count + 1 - exact).cdf).pvalue > 1e-4
    inside = np.mean((rates >= found[0].low) & (rates <= found[0].high))
    assert inside == pytest.approx(0.95, abs=0.01)


def test_written_decimals_are_exact():
    scores = np.arange(1, 100)  # n + 1 = 100
    for percent in range(1, 100):
        assert conformal_threshold(scores, percent / 100).value == 100 - percent


@pytest.mark.parametrize("text", ["5.0", "0.1", "29.0", "1.25", "0.05", "0.001", "99.99", "33.3333"])
def test_a_rate_in_words_is_the_rate(text):
    assert in_percent(float(text) / 100) == f"{text}%"


def test_says_how_many_images_are_needed():
    assert [images_needed(alpha) for alpha in (0.5, 0.05, 0.01, 0.001)] == [1, 19, 99, 999]
    for alpha in (0.3, 0.07, 0.05):
        needed = images_needed(alpha)
        assert conformal_threshold(np.arange(needed), alpha).value == needed - 1
        with pytest.raises(InputError, match=f"at least {needed} calibration images, there are {needed - 1}"):
            conformal_threshold(np.arange(needed - 1), alpha)
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            conformal_threshold(np.arange(10), alpha)
    with pytest.raises(InputError, match="1 of 2 calibration scores are NaN"):
        conformal_threshold([0.0, np.nan], 0.5)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_score_calibrates_nothing(value):
    """With infinite scores among the largest, the threshold was infinite: all images were ID."""
    scores = np.append(np.arange(98.0), value)
    with pytest.raises(InputError, match="1 of 99 calibration scores are infinite, so they decide nothing"):
        conformal_threshold(scores, 0.05)


def test_p_values_count_and_agree_with_the_threshold():
    random = np.random.default_rng(0)
    for calibration, scores in [
        (random.normal(size=99), random.normal(size=500)),
        (random.integers(0, 5, 99), random.integers(-1, 7, 500)),
        (np.array([-1e300, 0, 0, 1e300] * 10), np.array([-np.inf, 0, 1, np.inf])),
    ]:
        found = p_values(calibration, scores)
        counted = (1 + (calibration >= scores[:, None]).sum(1)) / (len(calibration) + 1)
        np.testing.assert_array_equal(found, counted)
        for alpha in (0.05, 0.1, 0.33):
            above = scores > conformal_threshold(calibration, alpha).value
            np.testing.assert_array_equal(found <= alpha, above)


def test_p_values_of_id_images_are_not_too_small_with_or_without_ties():
    random = np.random.default_rng(1)
    for draw in (random.random, lambda shape: random.integers(0, 4, shape)):
        calibration, own = draw((4000, 29)), draw((4000, 1))
        found = np.array([p_values(c, o)[0] for c, o in zip(calibration, own, strict=True)])
        for level in (0.05, 0.1, 0.5, 0.9):
            assert (found <= level).mean() <= level + 4 * np.sqrt(level * (1 - level) / 4000)


def test_benjamini_hochberg_equals_scipy_and_keeps_the_rate():
    random = np.random.default_rng(5)
    for p in (random.random(300), random.integers(1, 20, 300) / 20, np.array([1.0]), np.zeros(3)):
        np.testing.assert_allclose(adjusted_p_values(p), false_discovery_control(p), rtol=1e-12)
    shares = []
    for _ in range(300):
        calibration, own, far = random.normal(size=200), random.normal(size=90), random.normal(3, 1, size=10)
        called = adjusted_p_values(p_values(calibration, np.concatenate([own, far]))) <= 0.2
        shares.append(called[:90].sum() / max(1, called.sum()))
    assert np.mean(shares) <= 0.2 + 4 * np.std(shares) / np.sqrt(300)


def exact_discoveries(ranks, rate, calibration):
    """Benjamini and Hochberg's rule in whole numbers; p-values are ranks / (calibration + 1)."""
    last, share = 0, Fraction(str(rate))
    for place, rank in enumerate(np.sort(ranks).tolist(), 1):
        if Fraction(rank * len(ranks), place * (calibration + 1)) <= share:
            last = rank
    return ranks <= last


def test_rounding_decides_nothing_where_an_adjusted_p_value_is_the_rate():
    """3 * 0.1 is above 0.3 in floats; so one of two hundred random batches lost discoveries."""
    assert discoveries(np.array([2, 10, 13]) / 20, 0.3, 19).tolist() == [True, False, False]
    random = np.random.default_rng(0)
    for _ in range(2000):
        calibration, rate = random.choice([19, 49, 99, 199]), random.choice([0.05, 0.1, 0.15, 0.2, 0.3])
        ranks = random.integers(1, random.choice([4, calibration + 2]), random.integers(2, 80))
        found = discoveries(ranks / (calibration + 1), rate, calibration)
        np.testing.assert_array_equal(found, exact_discoveries(ranks, rate, calibration))


def test_products_of_p_values_are_those_of_their_fractions():
    for images in (19, 59, 999, 99_999):
        for rank in (1, 2, 3, images // 2):
            for count in (1, 3, 7, 50):
                expected = min(Fraction(1), Fraction(count * rank, images + 1))
                assert times(count, rank / (images + 1)) == float(expected)


def test_discoveries_over_10000_batches_of_one_calibration_size():
    random = np.random.default_rng(6)
    shares, found = [], []
    for _ in range(10_000):
        calibration, own, far = random.normal(size=60), random.normal(size=16), random.normal(3, 1, size=4)
        called = discoveries(p_values(calibration, np.concatenate([own, far])), 0.2, 60)
        shares.append(called[:16].sum() / max(1, called.sum()))
        found.append(called[16:].mean())
    # Bates et al. (2023), theorem 2: the rate times the share of ID images, and no more
    assert np.mean(shares) <= 0.2 * 16 / 20 + 4 * np.std(shares) / 100
    assert np.mean(found) > 0.5


def test_refuses():
    with pytest.raises(InputError, match="rate of 0.05 needs at least 19 calibration images, there are 18"):
        discoveries(np.ones(3), 0.05, 18)
    with pytest.raises(InputError, match="between 0 and 1"):
        adjusted_p_values(np.array([0.5, 1.2]))
