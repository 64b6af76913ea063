"""Gaussians that survive steep spectra: float64 moments, shrinkage, Cholesky factors.

Squared distances are sums of squares of whitened differences, so none is negative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from torch import Tensor

from sslood.core.errors import LeftOut
from sslood.ood.geometry.products import product
from sslood.ood.kit.outputs import chunks

Covariance = Literal["ridge", "ledoit_wolf"]
Transform = Callable[[np.ndarray], np.ndarray]
BLOCK = 128  # rows of the triangular factor that are multiplied at a time


def unchanged(rows: np.ndarray) -> np.ndarray:
    """The transform that leaves the features as they are."""
    return rows


@dataclass
class Moments:
    """Sums that can be streamed and merged: counts [G], means [G, D], scatter within groups [D, D].

    The update never subtracts large sums (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115).
    Equal rows of a group add exactly nothing to the scatter, on every processor: what is summed is how far
    rows are from one of them.
    """

    counts: np.ndarray
    means: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, groups: int, width: int) -> Self:
        """Return the moments of no images."""
        return cls(np.zeros(groups, np.int64), np.zeros((groups, width)), np.zeros((width, width)))

    def update(self, rows: np.ndarray, groups: np.ndarray | None = None) -> None:
        """Add rows [n, D] of groups [n] (all of group 0 if not given)."""
        rows = np.asarray(rows, dtype=np.float64)
        groups = np.zeros(len(rows), np.int64) if groups is None else groups
        member = np.zeros((len(self.counts), len(rows)))
        member[groups, np.arange(len(rows))] = 1.0
        counts = np.bincount(groups, minlength=len(self.counts))
        one = np.zeros_like(self.means)
        one[groups] = rows
        centred = rows - one[groups]
        offset = member @ centred / np.maximum(counts, 1)[:, None]
        centred -= offset[groups]
        self.merge(Moments(counts, one + offset, centred.T @ centred))

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
        one = self.means[[self.counts.argmax()]]
        shift = np.where(self.counts[:, None] > 0, self.means - one, 0.0)  # of equal means exactly 0
        offset = (self.counts @ shift / max(count, 1))[None]
        mean, shift = one + offset, shift - offset
        between = (shift * self.counts[:, None]).T @ shift
        return Moments(np.array([count]), mean, self.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Biased covariance within groups: scatter over the number of images, [D, D]."""
        return self.scatter / self.counts.sum()


@dataclass(frozen=True)
class Gaussians:
    """G Gaussians in D dimensions that share one covariance Sigma = L L^T.

    centre [D]; means [G, D]: W (mu_g - centre); whitening W [D, D] = L^-1, lower triangular.
    """

    centre: np.ndarray
    means: np.ndarray
    whitening: np.ndarray

    @property
    def log_det(self) -> float:
        """log det Sigma."""
        return -2.0 * float(np.log(np.diag(self.whitening)).sum())


def stacked(fitted: Sequence[Gaussians]) -> dict[str, np.ndarray]:
    """Return M covariances as a detector's state: centre [M, D], means [M, G, D], whitening [M, D, D]."""
    names = ("centre", "means", "whitening")
    return {name: np.stack([getattr(gaussians, name) for gaussians in fitted]) for name in names}


def fit_gaussians(
    rows: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    covariance: Covariance,
    ridge: float = 0.0,
    transform: Transform = unchanged,
    where: str = "features",
) -> Gaussians:
    """Fit one mean per group and one covariance within groups to transform(rows) [N, D].

    covariance "ridge" adds ridge * trace / D to the diagonal, so that the scale of the features does
    not matter; "ledoit_wolf" shrinks towards trace / D (Ledoit and Wolf 2004,
    doi:10.1016/S0047-259X(03)00096-4) and ignores `ridge`. Raises LeftOut if all rows of a group are
    equal in every group, or the covariance is still singular.
    """
    groups = np.zeros(len(rows), np.int64) if groups is None else groups
    width = transform(rows[:1]).shape[1]
    moments = Moments.empty(int(groups.max()) + 1, width)
    for piece, of in zip(chunks(rows), chunks(groups), strict=True):
        moments.update(transform(piece), of)
    if covariance == "ridge":
        return ridge_gaussians(moments, ridge, where)
    weight = _ledoit_wolf_weight(rows, groups, moments, transform)
    return _gaussians(
        moments, 1.0 - weight, weight, where, "give more images, or a ridge instead of ledoit_wolf"
    )


def ridge_gaussians(moments: Moments, ridge: float, where: str) -> Gaussians:
    """Return the Gaussians of moments, with ridge * trace / D on the diagonal of their covariance."""
    return _gaussians(moments, 1.0, ridge, where, "raise the ridge or choose ledoit_wolf")


def _gaussians(moments: Moments, share: float, weight: float, where: str, advice: str) -> Gaussians:
    """Return the Gaussians with covariance share * Sigma + weight * trace / D * I; `advice` if singular."""
    count, width = int(moments.counts.sum()), moments.means.shape[1]
    sigma = moments.covariance
    level = float(np.trace(sigma)) / width
    if not level > 0.0:
        of = " of each class or cluster" if len(moments.means) > 1 else ""
        raise LeftOut(f"{where}: all {count} rows{of} are equal, so there is no covariance to fit")
    sigma = share * sigma + weight * level * np.eye(width)
    try:
        root = cholesky(sigma, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        raise LeftOut(
            f"{where}: the covariance of {count} rows in {width} dimensions is singular; {advice}"
        ) from None
    whitening = solve_triangular(root, np.eye(width), lower=True, check_finite=False)
    centre = moments.means.mean(axis=0)
    return Gaussians(centre, (moments.means - centre) @ whitening.T, whitening)


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


def squared_distance(rows: Tensor, centre: Tensor, means: Tensor, whitening: Tensor) -> Tensor:
    """Return min_g (z - mu_g)^T Sigma^-1 (z - mu_g) of rows z [n, D] for `Gaussians`: float64 [n], at least
    0.

    M covariances at once, of one mean each (centre and means [M, 1, D], whitening [M, D, D]), give [M, n].
    """
    white = _whitened(rows - centre, whitening)
    if means.shape[-2] > 1:
        # the expanded square finds the nearest mean by one product; its own square is then summed
        # directly, which cannot cancel
        nearest = ((means * means).sum(1) - 2.0 * product(white, means.T)).argmin(1)
        means = means[nearest]
    white -= means
    return (white * white).sum(-1)


def each_squared_distance(rows: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Return `squared_distance` of rows [n, D] for each of M `stacked` covariances: float64 [n, M]."""
    parts = state["centre"], state["means"], state["whitening"]
    if (
        torch.compiler.is_exporting() and len(parts[0]) > 1
    ):  # a graph of many classes is as long as that of one
        return squared_distance(rows, parts[0][:, None], parts[1], parts[2]).T
    return torch.stack([squared_distance(rows, *one) for one in zip(*parts, strict=True)], 1)


def _whitened(rows: Tensor, whitening: Tensor) -> Tensor:
    """Return rows @ W^T; a single W on a CPU by blocks of its rows, which leaves out most of its zeros."""
    if whitening.ndim > 2 or rows.device.type != "cpu" or torch.compiler.is_exporting():
        return rows @ whitening.mT
    result = torch.empty_like(rows)
    left, right, out = rows.numpy(), whitening.numpy(), result.numpy()
    for start in range(0, len(right), BLOCK):
        end = min(start + BLOCK, len(right))
        np.matmul(left[:, :end], right[start:end, :end].T, out=out[:, start:end])
    return result
