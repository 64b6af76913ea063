"""KL divergence from the Gaussians of ID train to that of the image, k-th nearest."""

from torch import Tensor

from sslood.ood.geometry.gaussians import Laws, kl, kl_pairs
from sslood.ood.geometry.nearest_gaussian import NearestGaussian


def _pairs(queries: Laws, bank: Laws) -> Tensor:
    return kl_pairs(bank, queries).T


def _rows(queries: Laws, bank: Laws) -> Tensor:
    return kl(bank, queries)


class KlKnn(NearestGaussian):
    """k-th smallest KL(q_i || q_x) over ID train images i, in nats; larger = more OOD.

    Weighs distances by the variance of the tested image, so one that is unsure of itself is near to all.
    """

    pairs, rows = staticmethod(_pairs), staticmethod(_rows)
