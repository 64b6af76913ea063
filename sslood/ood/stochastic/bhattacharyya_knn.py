"""Bhattacharyya distance between the Gaussian of the image and those of ID train, k-th nearest."""

from sslood.ood.geometry.gaussians import bhattacharyya, bhattacharyya_pairs
from sslood.ood.geometry.nearest_gaussian import NearestGaussian


class BhattacharyyaKnn(NearestGaussian):
    """k-th smallest -log of the integral of sqrt(q_x q_i) over ID train images i; larger = more OOD."""

    pairs, rows = staticmethod(bhattacharyya_pairs), staticmethod(bhattacharyya)
