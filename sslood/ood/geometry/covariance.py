"""Gaussians that survive steep spectra: float64 moments, shrinkage, Cholesky, triangular solves.

A covariance is never inverted. Squared distances are sums of squares, so none is negative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from sslood.core.errors import InputError
from sslood.ood.geometry.pieces import in_pieces, one_thread
from sslood.ood.kit.outputs import chunks

Covariance = Literal["ridge", "ledoit_wolf"]
Transform = Callable[[np.ndarray], np.ndarray]
PIECE = 256  # rows whitened at a time: 1 MiB of 512 features stays in the cache of a core
BLOCK = 128  # of the triangular factor


def unchanged(rows: np.ndarray) -> np.ndarray:
    """The transform that leaves the features as they are."""
    return rows


@dataclass
class Moments:
    """Sums that can be streamed and merged: counts [G], means [G, D], scatter within groups [D, D].

    The update is that of Chan, Golub and LeVeque (1983), which never subtracts large sums.
    """

    counts: np.ndarray
    means: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, groups: int, width: int) -> Self:
        return cls(np.zeros(groups, np.int64), np.zeros((groups, width)), np.zeros((width, width)))

    def update(self, rows: np.ndarray, groups: np.ndarray | None = None) -> None:
        """Add rows [n, D] of groups [n] (all of group 0 if not given)."""
        rows = np.asarray(rows, dtype=np.float64)
        groups = np.zeros(len(rows), np.int64) if groups is None else groups
        member = np.zeros((len(self.counts), len(rows)))
        member[groups, np.arange(len(rows))] = 1.0
        counts = np.bincount(groups, minlength=len(self.counts))
        means = member @ rows / np.maximum(counts, 1)[:, None]
        centred = rows - means[groups]
        self.merge(Moments(counts, means, centred.T @ centred))

    def merge(self, other: "Moments") -> None:
        """Add the moments of other images."""
        counts = self.counts + other.counts
        share = other.counts / np.maximum(counts, 1)
        shift = other.means - self.means
        self.scatter = self.scatter + other.scatter + (shift * (self.counts * share)[:, None]).T @ shift
        self.means = self.means + shift * share[:, None]
        self.counts = counts

    def merged(self, other: "Moments") -> "Moments":
        """Return the moments of both, and leave these as they are."""
        result = Moments(self.counts, self.means, self.scatter)
        result.merge(other)
        return result

    def pooled(self) -> "Moments":
        """Return the moments of all groups as one."""
        count = self.counts.sum()
        mean = (self.counts @ self.means / max(count, 1))[None]
        shift = self.means - mean
        between = (shift * self.counts[:, None]).T @ shift
        return Moments(np.array([count]), mean, self.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Biased covariance within groups: scatter over the number of images, [D, D]."""
        return self.scatter / self.counts.sum()


@dataclass(frozen=True)
class Gaussians:
    """Means [G, D] that share one covariance, given by its lower Cholesky factor `root` [D, D]."""

    means: np.ndarray
    root: np.ndarray


def fit_gaussians(
    rows: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    covariance: Covariance,
    ridge: float = 0.0,
    transform: Transform = unchanged,
    where: str = "features",
) -> Gaussians:
    """Fit one mean a group and one covariance within groups to transform(rows) [N, D].

    covariance "ridge" adds ridge * trace / D to the diagonal, so that the scale of the features does
    not matter; "ledoit_wolf" shrinks towards trace / D (Ledoit and Wolf 2004) and ignores `ridge`.
    Raises InputError if all rows are equal, or the covariance is singular still.
    """
    groups = np.zeros(len(rows), np.int64) if groups is None else groups
    width = transform(rows[:1]).shape[1]
    moments = Moments.empty(int(groups.max()) + 1, width)
    for piece, of in zip(chunks(rows), chunks(groups), strict=True):
        moments.update(transform(piece), of)
    if covariance == "ridge":
        return ridge_gaussians(moments, ridge, where)
    weight = _ledoit_wolf_weight(rows, groups, moments, transform)
    return _rooted(moments, 1.0 - weight, weight, where)


def ridge_gaussians(moments: Moments, ridge: float, where: str) -> Gaussians:
    """Return the Gaussians of moments, with ridge * trace / D on the diagonal of their covariance."""
    return _rooted(moments, 1.0, ridge, where)


def _rooted(moments: Moments, share: float, weight: float, where: str) -> Gaussians:
    """Return the means and the root of share * covariance + weight * trace / D * I."""
    count, width = int(moments.counts.sum()), moments.means.shape[1]
    sigma = moments.covariance
    level = float(np.trace(sigma)) / width
    if not level > 0.0:
        raise InputError(f"{where}: all {count} rows are equal, so there is no covariance to fit")
    sigma = share * sigma + weight * level * np.eye(width)
    try:
        root = cholesky(sigma, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        raise InputError(
            f"{where}: the covariance of {count} rows in {width} dimensions is singular; "
            "raise the ridge or choose ledoit_wolf"
        ) from None
    return Gaussians(moments.means, root)


def _ledoit_wolf_weight(
    rows: np.ndarray, groups: np.ndarray, moments: Moments, transform: Transform
) -> float:
    """Share of the target trace / D * I in the estimate of least expected squared error, in [0, 1]."""
    fourth = 0.0
    for piece, of in zip(chunks(rows), chunks(groups), strict=True):
        centred = transform(piece) - moments.means[of]
        fourth += float((np.einsum("nd,nd->n", centred, centred) ** 2).sum())
    sigma, count, width = moments.covariance, len(rows), moments.means.shape[1]
    level = np.trace(sigma) / width
    square = float((sigma**2).sum())
    # ||Sigma - level I||^2 against the mean squared error of the sample covariance
    distance = square - width * level**2
    error = (fourth / count - square) / count
    return 1.0 if distance <= 0.0 else float(np.clip(error / distance, 0.0, 1.0))


def nearest_squared_distance(
    rows: np.ndarray, gaussians: Gaussians, *, transform: Transform = unchanged
) -> np.ndarray:
    """Return min_g (z - mu_g)^T Sigma^-1 (z - mu_g) for z = transform(rows): float64 [N], at least 0."""
    centre = gaussians.means.mean(axis=0)
    with one_thread():
        whiten = Whitening(gaussians.root)
        means = whiten(gaussians.means - centre)
    norms = np.einsum("gd,gd->g", means, means)
    result = np.empty(len(rows))

    def make():
        white, other = np.empty((2, min(PIECE, len(rows)), len(centre)))

        def measure(piece: slice) -> None:
            here = transform(rows[piece])
            found, spare = white[: len(here)], other[: len(here)]
            whiten(np.subtract(here, centre, out=found), out=found)
            # the expanded square finds the nearest mean by one product; its own square is then summed
            # directly, which cannot cancel
            nearest = np.argmin(norms - 2.0 * (found @ means.T), axis=1)
            found -= means.take(nearest, axis=0, out=spare, mode="clip") if len(means) > 1 else means
            result[piece] = np.einsum("nd,nd->n", found, found)

        return measure

    in_pieces(make, len(rows), PIECE)
    return result


class Whitening:
    """Solve L y = z for many rows z, L lower triangular: y^T y = z^T (L L^T)^-1 z.

    Forward substitution by blocks, so that all but the small blocks of the diagonal is matrix products,
    which BLAS spreads over cores better than its triangular solver. Only those blocks are inverted (Higham
    2002, sec. 14.2.2): what is lost to rounding grows with the condition of a block, not of L.
    """

    def __init__(self, root: np.ndarray):
        self.steps = []
        for start in range(0, len(root), BLOCK):
            place = slice(start, start + BLOCK)
            block = root[place, place]
            inverse = solve_triangular(block, np.eye(len(block)), lower=True, check_finite=False)
            self.steps.append((place, root[place, :start].T, inverse.T))

    def __call__(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return y [N, D] of rows z [N, D], float64; in `out`, which may be `rows`, if given."""
        out = np.empty(rows.shape) if out is None else out
        for place, left, inverse in self.steps:
            rest = rows[:, place]
            if place.start:
                rest = rest - out[:, : place.start] @ left
            out[:, place] = rest @ inverse
        return out
