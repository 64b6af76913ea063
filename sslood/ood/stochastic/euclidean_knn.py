"""Euclidean distance between the mean of the image's Gaussian and those of ID train, k-th nearest."""

from torch import Tensor

from sslood.ood.geometry.gaussians import DiagonalGaussians, euclidean, euclidean_pairs
from sslood.ood.geometry.nearest_gaussian import NearestGaussian


class EuclideanKNN(NearestGaussian):
    """k-th smallest |mu_x - mu_i| over ID train images i; larger = more OOD. The variances are ignored."""

    @staticmethod
    def pairs(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return euclidean_pairs(queries, bank)

    @staticmethod
    def rows(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return euclidean(queries, bank)
