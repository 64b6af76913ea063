"""Bhattacharyya distance between the Gaussian of the image and those of ID train, k-th nearest."""

from torch import Tensor

from sslood.ood.geometry.gaussians import (
    DiagonalGaussians,
    bhattacharyya,
    bhattacharyya_bounds,
    bhattacharyya_pairs,
)
from sslood.ood.geometry.nearest_gaussian import NearestGaussian, Pair


class BhattacharyyaKNN(NearestGaussian):
    """k-th smallest -log of the integral of sqrt(q_x q_i) over ID train images i; larger = more OOD."""

    error = 2.0**-22  # of float32: a product of four variances has five roundings, and so many sums more

    @property
    def bounds(self) -> Pair:
        return bhattacharyya_bounds

    @staticmethod
    def pairs(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return bhattacharyya_pairs(queries, bank)

    @staticmethod
    def rows(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return bhattacharyya(queries, bank)
