"""KL divergence from the Gaussian of the image to those of ID train, k-th nearest."""

from torch import Tensor

from sslood.ood.geometry.gaussians import DiagonalGaussians, kl, kl_pairs
from sslood.ood.geometry.nearest_gaussian import NearestGaussian


class ReverseKLKNN(NearestGaussian):
    """k-th smallest KL(q_x || q_i) over ID train images i, in nats; larger = more OOD.

    Weighs distances by the variance of the training images.
    """

    @staticmethod
    def pairs(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return kl_pairs(queries, bank)

    @staticmethod
    def rows(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return kl(queries, bank)
