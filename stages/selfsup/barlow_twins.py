"""Barlow Twins: the cross-correlation of two views driven to the identity (Zbontar et al. 2021, eq. 1)."""

from dataclasses import dataclass

from torch import Tensor

from stages.selfsup.objective import TwoViews

EPSILON = 1e-5  # under the root of the variance, as batch norm has it


def standardise(z: Tensor) -> Tensor:
    """Return z [N, D] with mean 0 and (biased) variance 1 per dimension over the batch."""
    centred = z - z.mean(0)
    return centred / (centred.square().mean(0) + EPSILON).sqrt()


def correlations(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return (diagonal [D], sum of all squares) of C = a' b / N for standardised a, b [N, D].

    Where N < D the squares come from |a' b|^2 = <a a', b b'>: N^2 D operations, and no D x D matrix.
    """
    n, d = a.shape
    diagonal = (a * b).mean(0)
    if n < d:
        return diagonal, ((a @ a.T) * (b @ b.T)).sum() / n**2
    return diagonal, (a.T @ b / n).square().sum()


def barlow_twins(z1: Tensor, z2: Tensor, off_diagonal: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (sum_i (C_ii - 1)^2 + off_diagonal sum_{i != j} C_ij^2, terms) of projections [N, D]."""
    diagonal, squares = correlations(standardise(z1), standardise(z2))
    terms = {
        "invariance": (diagonal - 1).square().sum(),
        "redundancy": squares - diagonal.square().sum(),
    }
    return terms["invariance"] + off_diagonal * terms["redundancy"], terms


@dataclass(frozen=True)
class Constants:
    """Widths of the projector, the weight lambda of the off-diagonal, and a factor on the whole loss."""

    projector: tuple[int, ...]
    off_diagonal: float
    scale: float


class BarlowTwins(TwoViews):
    """Every dimension agrees between the views and tells what no other dimension does."""

    Constants = Constants

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = barlow_twins(z1, z2, self.constants.off_diagonal)
        return self.constants.scale * loss, terms
