"""Combined scores: p-values against scipy, mpmath and counting, sums against numpy."""

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import combine_pvalues, false_discovery_control, kstest

from sslood.core.errors import InputError
from sslood.ood.kit.combining import Combiner, evidence, tail_p_values


def combined(p, by):
    """Return the combined p-values [N] of p-values [m, N]."""
    return np.exp(-evidence(torch.from_numpy(p), by).numpy())


def ranked(reference, scores):
    values = torch.tensor(scores, dtype=torch.float64)
    return tail_p_values(torch.from_numpy(np.sort(reference)), values).numpy()


def test_fisher_equals_scipy_and_simes_its_definition():
    p = np.random.default_rng(2).random((4, 200)) ** 3 + 1e-12
    expected = [combine_pvalues(column, method="fisher").pvalue for column in p.T]
    np.testing.assert_allclose(combined(p, "fisher"), expected, rtol=1e-12)
    simes = [false_discovery_control(column).min() for column in p.T]  # Simes is BH's smallest step
    np.testing.assert_allclose(combined(p, "simes"), simes, rtol=1e-12)


def test_evidence_goes_on_where_p_values_underflow():
    """Of three detectors at 1e-300 each, to fifty digits; scipy's p-value is 0."""
    p = torch.full((3, 1), 1e-300, dtype=torch.float64)
    with mpmath.workdps(50):
        exact = -mpmath.log(mpmath.gammainc(3, -3 * mpmath.log(mpmath.mpf(1e-300)), regularized=True))
    assert float(evidence(p, "fisher")) == pytest.approx(float(exact), rel=1e-13)


def test_cauchy_to_fifty_digits_and_for_equal_values():
    p = np.random.default_rng(3).random((3, 40)) ** 8 + 1e-300
    with mpmath.workdps(50):
        for column, found in zip(p.T.tolist(), combined(p, "cauchy"), strict=True):
            mean = mpmath.fsum(mpmath.cot(mpmath.pi * x) for x in column) / 3
            exact = mpmath.atan2(1, mean) / mpmath.pi
            assert found == pytest.approx(float(exact), rel=1e-10)
    same = np.tile([1e-200, 1e-9, 0.3, 0.8, 1.0], (5, 1))
    np.testing.assert_allclose(combined(same, "cauchy"), same[0], rtol=1e-9)


@pytest.mark.parametrize("by", ["fisher", "simes", "cauchy"])
def test_combinations_of_uniform_p_values_are_uniform(by):
    found = combined(np.random.default_rng(4).random((3, 20_000)), by)
    assert kstest(found, "uniform").pvalue > 1e-4
    one = np.array([[0.01, 0.5, 1.0]])
    np.testing.assert_allclose(combined(one, by), one[0], rtol=1e-12)


def test_ranks_among_references_go_on_beyond_the_last_one():
    random = np.random.default_rng(7)
    reference = random.normal(size=200)
    scores = np.sort(np.concatenate([random.normal(size=300), np.linspace(3, 1e6, 50)]))
    found = ranked(reference, scores)
    inside = scores <= reference.max()
    counted = (0.5 + (reference >= scores[:, None]).sum(1)) / 201
    np.testing.assert_allclose(found[inside], counted[inside], rtol=1e-15)
    assert (np.diff(found[~inside]) < 0).all() and found[~inside].max() < 0.5 / 201
    assert found.min() > 0 and ranked(reference, [-1e9])[0] == 200.5 / 201
    tenth = np.sort(reference)[-20:]
    excess = 3 * (tenth.mean() - tenth[0])  # three mean excesses beyond: a quarter
    assert ranked(reference, [reference.max() + excess])[0] == pytest.approx(0.5 / 201 / 4)
    for odd in (np.zeros(5), np.array([-1e300, 0.0, 1e300]), np.array([1.0])):
        values = ranked(odd, [-1e308, 0.0, 1.0, 5.0, 1e308])
        assert (np.diff(values) <= 0).all() and values.min() > 0 and values.max() < 1


def test_a_sum_is_that_of_standardised_scores_whatever_their_scales():
    random = np.random.default_rng(8)
    own = {name: random.normal(size=700) for name in "abc"}
    new = {name: random.normal(size=1100) for name in "abc"}
    expected = sum((new[name] - own[name].mean()) / own[name].std() for name in "abc")
    np.testing.assert_allclose(Combiner(own, "sum").score(new), expected, rtol=1e-12, atol=1e-12)
    own["b"], new["b"] = (1e6 * values["b"] - 3.0 for values in (own, new))
    np.testing.assert_allclose(Combiner(own, "sum").score(new), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("by", ["fisher", "simes", "cauchy"])
def test_a_combination_of_p_values_reads_the_order_of_scores_alone(by):
    """Within the references, a rising map of one detector's scores changes nothing."""
    random = np.random.default_rng(9)
    own, new = random.normal(size=(2, 300)), random.uniform(-1, 1, size=(2, 200))
    plain = Combiner({"a": own[0], "b": own[1]}, by).score({"b": new[1], "a": new[0]})
    bent = Combiner({"a": np.exp(own[0]), "b": own[1]}, by).score({"a": np.exp(new[0]), "b": new[1]})
    np.testing.assert_array_equal(plain, bent)
    p = np.array([[(0.5 + (o >= x).sum()) / 301 for x in row] for o, row in zip(own, new, strict=True)])
    np.testing.assert_allclose(plain, -np.log(combined(p, by)), rtol=1e-12)


def test_refuses():
    with pytest.raises(InputError, match="unknown combination 'mean'; known: sum, fisher"):
        evidence(torch.ones(2, 3), "mean")
    with pytest.raises(InputError, match="the scores of b are the same for all 4 ID images .* leave it out"):
        Combiner({"a": np.arange(4.0), "b": np.ones(4)}, "sum")
