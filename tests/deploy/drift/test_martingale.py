"""The alarm that may be wrong at most once in 1 / delta streams: each step of its proof, and the whole."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import gamma, kstest

from sslood.core.errors import InputError
from sslood.deploy.drift.betting import BETS, bet, cash, density, wealth
from sslood.deploy.drift.online import Reference, open_interval
from sslood.deploy.thresholds import p_values


def counted(reference, calibration, bins, theta):
    """P-values by their definition: the share of all seen so far, itself included, that is more OOD."""
    pool, found = list(reference.bins(np.asarray(calibration))), []
    for own, chance in zip(bins, theta, strict=True):
        pool.append(own)
        above, equal = sum(one > own for one in pool), sum(one == own for one in pool)
        found.append((above + chance * equal) / len(pool))
    return found


def test_p_values_by_their_definition_also_in_pieces():
    random = np.random.default_rng(0)
    calibration, scores = np.sort(random.normal(size=60)), random.normal(0.5, size=1300)
    reference = Reference.of(calibration, seed=3)
    rest = [score for score in calibration if score not in reference.cuts]
    assert len(rest) == 30 and reference.counts.sum() == 30, "half of a small set are cuts, and not compared"
    bins, theta = reference.bins(scores), open_interval(random.random(1300))
    p, after = reference.p_values(bins, theta)
    np.testing.assert_allclose(p, counted(reference, rest, bins, theta), rtol=1e-12)
    assert after.counts.sum() == 30 + 1300 and reference.counts.sum() == 30
    first, middle = reference.p_values(bins[:700], theta[:700])
    second, end = middle.p_values(bins[700:], theta[700:])
    np.testing.assert_array_equal(np.concatenate([first, second]), p)
    np.testing.assert_array_equal(end.counts, after.counts)


def streams(count, calibrated, length, draw, seed=0):
    """P-values [count, length] of streams that are like their own calibration images."""
    random, rows = np.random.default_rng(seed), []
    for place in range(count):
        scores = draw(random, calibrated + length)
        reference = Reference.of(np.sort(scores[:calibrated]), seed=place)
        theta = open_interval(random.random(length))
        rows.append(reference.p_values(reference.bins(scores[calibrated:]), theta)[0])
    return np.array(rows)


@pytest.mark.parametrize("draw", [lambda r, n: r.normal(size=n), lambda r, n: r.integers(0, 4, n) * 1.0])
def test_p_values_of_a_stream_like_its_calibration_images_are_uniform_and_independent(draw):
    """With four different scores too. Those against a calibration set that stays are not independent."""
    p = streams(1000, 25, 30, draw)
    for place in (0, 1, 29):
        assert kstest(p[:, place], "uniform").pvalue > 1e-3
    assert kstest(-np.log(p).sum(1), gamma(30).cdf).pvalue > 1e-3, "a sum of independent exponentials"
    assert np.abs(np.corrcoef(p, rowvar=False)[np.triu_indices(30, 1)]).max() < 0.16
    random = np.random.default_rng(1)
    split = np.array([p_values(random.random(25), random.random(30)) for _ in range(1000)])
    assert kstest(-np.log(split).sum(1), gamma(30).cdf).pvalue < 1e-9


def test_every_bet_is_fair():
    for exponent, _, low in BETS:
        area = quad(lambda p, e=exponent, d=low: np.exp(density(np.array([p]), e, d))[0], 0, 1, limit=200)[0]
        assert area == pytest.approx(1, abs=1e-4)
    assert sum(share for _, share, _ in BETS) == pytest.approx(1, abs=1e-12)


def test_the_recursion_is_the_sum_over_all_bets_and_starts():
    p = np.random.default_rng(2).random(12) ** 2
    log_stakes, log_evidence = bet(np.full(len(BETS), -np.inf), p, 0)
    for end in range(1, 13):
        total = cash(end)
        for exponent, share, low in BETS:
            q = p if low else 1 - p
            for start in range(1, end + 1):
                grown = np.prod(exponent * q[start - 1 : end] ** (exponent - 1))
                total += (cash(start - 1) - cash(start)) * share * grown
        assert np.exp(log_evidence[end - 1]) == pytest.approx(total, rel=1e-12)
    first, one = bet(np.full(len(BETS), -np.inf), p[:5], 0)
    second, two = bet(first, p[5:], 5)
    np.testing.assert_array_equal(np.concatenate([one, two]), log_evidence)
    np.testing.assert_array_equal(second, log_stakes)
    assert wealth(log_stakes, 12) == log_evidence[-1]


def test_evidence_neither_overflows_nor_is_lost():
    small, large = np.full(5000, 1e-9), np.full(5000, 0.5)
    stakes, evidence = bet(np.full(len(BETS), -np.inf), np.concatenate([small, large]), 0)
    assert np.isfinite(evidence).all() and np.isfinite(stakes).all() and evidence.max() > 10_000
    _, calm = bet(np.full(len(BETS), -np.inf), np.full(5000, 0.4), 0)
    assert calm.min() >= np.log(cash(5000)), "what was not staked cannot be lost"


def test_false_alarms_ever_over_a_thousand_streams():
    """The promise. The same bets on p-values that share a calibration set, as it stays, break it."""
    p = streams(1000, 30, 300, lambda r, n: r.normal(size=n), seed=4)
    none = np.full((1000, len(BETS)), -np.inf)
    highest = bet(none, p, 0)[1].max(1)
    for delta in (0.2, 0.05, 0.01):
        assert (highest >= -np.log(delta)).mean() <= delta + 3 * np.sqrt(delta * (1 - delta) / 1000)
    assert (highest >= -np.log(0.5)).mean() > 0.05, "and it is no empty one: evidence does move"
    random = np.random.default_rng(5)
    split = np.array([p_values(random.random(30), random.random(300)) for _ in range(1000)])
    split -= random.random(split.shape) / 31  # ties broken at random here too: each one alone is uniform
    assert (bet(none, split, 0)[1].max(1) >= -np.log(0.05)).mean() > 0.3


def test_a_change_is_found_soon_though_the_stream_was_long_calm():
    random, found = np.random.default_rng(6), []
    for place in range(9):
        reference = Reference.of(np.sort(random.normal(size=200)), seed=place)
        scores = np.concatenate([random.normal(size=2000), random.normal(2, size=100)])
        p, _ = reference.p_values(reference.bins(scores), open_interval(random.random(2100)))
        evidence = bet(np.full(len(BETS), -np.inf), p, 0)[1]
        assert evidence[:2000].max() < np.log(100)
        found.append(np.argmax(evidence >= np.log(100)) - 2000)
    assert 0 < min(found) and np.median(found) < 20


def test_scores_that_become_too_ordinary_are_a_change_too():
    random = np.random.default_rng(7)
    reference = Reference.of(np.sort(random.normal(size=500)), seed=0)
    p, _ = reference.p_values(reference.bins(random.normal(-2, size=60)), open_interval(random.random(60)))
    stakes, evidence = bet(np.full(len(BETS), -np.inf), p, 0)
    assert evidence.max() > np.log(100) and not BETS[int(stakes.argmax())][2]


def test_refuses_scores_that_are_not_finite():
    with pytest.raises(InputError, match="1 of 2 stream scores are NaN"):
        Reference.of(np.arange(30.0), seed=0).bins(np.array([0.0, np.nan]))
