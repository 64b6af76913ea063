"""KL divergence from the Gaussians of ID train to that of the image, k-th nearest."""

from torch import Tensor

from sslood.ood.geometry.gaussians import DiagonalGaussians, kl, kl_pairs
from sslood.ood.geometry.nearest_gaussian import NearestGaussian


class KLKNN(NearestGaussian):
    """k-th smallest KL(q_i || q_x) over ID train images i, in nats; larger = more OOD.

    Weighs distances by the variance of the tested image, so an uncertain one is near to all.
    """

    @staticmethod
    def pairs(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return kl_pairs(bank, queries).T

    @staticmethod
    def rows(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        return kl(bank, queries)
