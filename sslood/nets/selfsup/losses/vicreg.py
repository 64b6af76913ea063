"""Variance, invariance and covariance of two views (Bardes et al. 2022, arXiv:2105.04906, eq. 1 to 6)."""

from torch import Tensor

EPSILON = 1e-4  # under the root of the variance


def invariance(z1: Tensor, z2: Tensor) -> Tensor:
    """Return the mean squared difference of the views' projections [N, D]."""
    return (z1 - z2).square().mean()


def variance(z: Tensor) -> Tensor:
    """Return mean_d relu(1 - sqrt(var_d + eps)) of z [N, D]: 0 once every dimension spreads by 1."""
    return (1 - (z.var(0) + EPSILON).sqrt()).relu().mean()


def covariance(z: Tensor) -> Tensor:
    """Return the squared off-diagonal entries of the covariance of z [N, D], summed, over D.

    Where N < D the sum of all squares comes from |z' z|^2 = |z z'|^2, without a D x D matrix.
    """
    n, d = z.shape
    z = z - z.mean(0)
    gram = z @ z.T if n < d else z.T @ z
    return (gram.square().sum() - z.square().sum(0).square().sum()) / (n - 1) ** 2 / d


def vicreg(
    z1: Tensor, z2: Tensor, invariance_weight: float, variance_weight: float, covariance_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, terms) of projections [N, D]: variance averaged over the views, covariance summed.

    So the authors' code has it; the paper sums both.
    """
    terms = {
        "invariance": invariance(z1, z2),
        "variance": (variance(z1) + variance(z2)) / 2,
        "covariance": covariance(z1) + covariance(z2),
    }
    loss = (
        invariance_weight * terms["invariance"]
        + variance_weight * terms["variance"]
        + covariance_weight * terms["covariance"]
    )
    return loss, terms
