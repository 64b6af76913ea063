"""KL divergence from the Gaussian of the image to those of ID train, k-th nearest."""

from sslood.ood.geometry.gaussians import kl, kl_pairs
from sslood.ood.geometry.nearest_gaussian import NearestGaussian


class ReverseKlKnn(NearestGaussian):
    """k-th smallest KL(q_x || q_i) over ID train images i, in nats; larger = more OOD.

    Weighs distances by the variance of the training images.
    """

    pairs, rows = staticmethod(kl_pairs), staticmethod(kl)
