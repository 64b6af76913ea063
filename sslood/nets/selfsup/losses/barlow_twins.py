"""The cross-correlation of two views against the identity (Zbontar et al. 2021, arXiv:2103.03230, eq. 1)."""

from torch import Tensor

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
