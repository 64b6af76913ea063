"""Covariances against numpy, scikit-learn and fifty digits."""

import mpmath
import numpy as np
import pytest
import torch
from scipy.linalg import solve_triangular
from sklearn.covariance import LedoitWolf

from sslood.core.errors import InputError
from sslood.core.rows import unit_rows
from sslood.ood.geometry.covariance import BLOCK, Moments, fit_gaussians, squared_distance


def steep(n, d, tau, seed=0):
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.normal(size=(d, d)))
    return (random.normal(size=(n, d)) * np.exp(-np.arange(d) / tau)) @ basis + random.normal(size=d)


def distance(rows, fitted):
    parts = (rows.astype(np.float64), fitted.centre, fitted.means, fitted.whitening)
    return squared_distance(*map(torch.from_numpy, parts)).numpy()


def covariance(fitted):
    return np.linalg.inv(fitted.whitening.T @ fitted.whitening)


def test_streamed_merged_and_whole_moments_agree():
    random = np.random.default_rng(0)
    rows, groups = random.normal(size=(500, 6)) + 100, random.integers(3, size=500)
    whole, streamed = Moments.empty(3, 6), Moments.empty(3, 6)
    whole.update(rows, groups)
    shards = [Moments.empty(3, 6) for _ in range(3)]
    for place, start in enumerate(range(0, 500, 71)):
        streamed.update(rows[start : start + 71], groups[start : start + 71])
        shards[place % 3].update(rows[start : start + 71], groups[start : start + 71])
    for shard in shards[1:]:
        shards[0].merge(shard)
    centred = rows - np.stack([rows[groups == g].mean(0) for g in range(3)])[groups]
    for moments in (whole, streamed, shards[0]):
        np.testing.assert_array_equal(moments.counts, np.bincount(groups))
        np.testing.assert_allclose(moments.covariance, centred.T @ centred / 500, rtol=0, atol=1e-9)
        np.testing.assert_allclose(moments.means[1], rows[groups == 1].mean(0), rtol=1e-12)


@pytest.mark.parametrize("each", [1, 3], ids=["all", "of each group"])
def test_equal_rows_have_no_scatter_at_all(each):
    """Rounding that depends on the processor would decide whether there is a covariance."""
    random = np.random.default_rng(1)
    values = random.uniform(size=(each, 6))[np.arange(3) % each]
    moments = Moments.empty(4, 6)  # the last group stays empty
    for count in (7, 500, 5000):
        groups = random.integers(3, size=count)
        moments.update(values[groups], groups)
    assert not moments.scatter.any() and np.array_equal(moments.means[:3], values)
    assert moments.pooled().scatter.any() == (each == 3)


@pytest.mark.parametrize("n", [30, 1000, 9000])
def test_ledoit_wolf_equals_scikit_learn(n):
    rows = steep(n, 20, 5)
    fitted, theirs = fit_gaussians(rows, covariance="ledoit_wolf"), LedoitWolf().fit(rows)
    np.testing.assert_allclose(covariance(fitted), theirs.covariance_, rtol=1e-9, atol=1e-14)
    queries = steep(50, 20, 5, seed=1)
    expected = theirs.mahalanobis(queries)
    np.testing.assert_allclose(distance(queries, fitted), expected, rtol=1e-6)


def test_distance_is_the_nearest_of_all_means():
    random = np.random.default_rng(3)
    rows, groups, queries = random.normal(size=(5000, 7)), np.arange(5000) % 4, random.normal(size=(4500, 7))
    rows += 5 * groups[:, None]
    fitted = fit_gaussians(rows, groups, covariance="ridge", ridge=1e-3)
    precision = fitted.whitening.T @ fitted.whitening
    gaps = queries[:, None] - np.stack([rows[groups == g].mean(0) for g in range(4)])
    expected = np.einsum("ngi,ij,ngj->ng", gaps, precision, gaps).min(1)
    np.testing.assert_allclose(distance(queries, fitted), expected, rtol=1e-9)


def test_ridge_is_relative_to_the_scale():
    rows, queries = steep(400, 12, 2), steep(50, 12, 2, seed=5)
    first = fit_gaussians(rows, covariance="ridge", ridge=1e-4)
    small = fit_gaussians(rows * 1e-3, covariance="ridge", ridge=1e-4)
    expected = distance(queries, first)
    np.testing.assert_allclose(distance(queries * 1e-3, small), expected, rtol=1e-6)


def test_ill_conditioned_distances_against_fifty_digits():
    rows = steep(120, 16, 0.5).astype(np.float32)  # eigenvalues span 1e26, far beyond float64
    queries = steep(12, 16, 0.5, seed=7).astype(np.float32)
    fitted = fit_gaussians(rows, covariance="ridge", ridge=1e-6)
    found = distance(np.concatenate([queries, rows[:4]]), fitted)
    assert (found >= 0).all()
    with mpmath.workdps(50):
        x = mpmath.matrix(rows.tolist())
        mean = [mpmath.fsum(x[i, j] for i in range(120)) / 120 for j in range(16)]
        centred = mpmath.matrix(120, 16)
        for i in range(120):
            for j in range(16):
                centred[i, j] = x[i, j] - mean[j]
        sigma = centred.T * centred / 120
        level = mpmath.fsum(sigma[j, j] for j in range(16)) / 16
        for j in range(16):
            sigma[j, j] += mpmath.mpf(1e-6) * level
        for place, row in enumerate([*queries.tolist(), *rows[:4].tolist()]):
            gap = mpmath.matrix([value - m for value, m in zip(row, mean, strict=True)])
            exact = float((gap.T * mpmath.lu_solve(sigma, gap))[0])
            assert found[place] == pytest.approx(exact, rel=1e-8)


def test_rank_deficient_features_never_give_a_negative_distance():
    rows = unit_rows(steep(100, 64, 10, seed=2)[:40])  # fewer images than dimensions
    fitted = fit_gaussians(rows, covariance="ridge", ridge=1e-6)
    assert (distance(np.concatenate([rows, fitted.centre[None]]), fitted) >= 0).all()


def test_refuses():
    with pytest.raises(InputError, match="all 5 rows are equal"):
        fit_gaussians(np.ones((5, 3)), covariance="ridge", ridge=1e-3)
    with pytest.raises(InputError, match="singular; raise the ridge or choose ledoit_wolf"):
        fit_gaussians(np.eye(3)[:2].repeat(2, 0), covariance="ridge", ridge=0.0)
    two = np.random.default_rng(0).normal(size=(2, 16))  # of which Ledoit and Wolf shrink nothing
    assert LedoitWolf().fit(two).shrinkage_ == 0.0
    with pytest.raises(
        InputError, match="of 2 rows in 16 .* singular; give more images, or a ridge instead of ledoit_wolf"
    ):
        fit_gaussians(two, covariance="ledoit_wolf")


@pytest.mark.parametrize("width", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_whitening_by_blocks_equals_substitution(width):
    rows = steep(2 * width + 5, width, width / 4)
    fitted = fit_gaussians(rows, covariance="ridge", ridge=1e-6)
    sigma = np.cov(rows.T, bias=True).reshape(width, width)
    root = np.linalg.cholesky(sigma + 1e-6 * np.trace(sigma) / width * np.eye(width))
    expected = (solve_triangular(root, (rows - rows.mean(0)).T, lower=True) ** 2).sum(0)
    np.testing.assert_allclose(distance(rows, fitted), expected, rtol=1e-8)


def test_whitening_of_ill_conditioned_factors_against_fifty_digits():
    """Over several blocks, with a covariance whose condition is 1e8."""
    width = 2 * BLOCK + 20
    rows = steep(400, width, 12)
    fitted = fit_gaussians(rows, covariance="ridge", ridge=1e-6)
    assert np.linalg.cond(fitted.whitening) ** 2 > 1e7
    gap = (rows[0] - fitted.centre).tolist()
    with mpmath.workdps(50):
        square = sum(mpmath.fdot(row, gap) ** 2 for row in fitted.whitening.tolist())
    assert distance(rows[:1], fitted)[0] == pytest.approx(float(square), rel=1e-10)
