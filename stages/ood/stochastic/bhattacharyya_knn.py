"""Bhattacharyya distance between the Gaussian of the image and those of ID train, k-th nearest."""

from stages.ood.stochastic.laws import bhattacharyya, bhattacharyya_pairs
from stages.ood.stochastic.nearest import NearestGaussian


class BhattacharyyaKnn(NearestGaussian):
    """k-th smallest -log of the integral of sqrt(q_x q_i) over ID train images i; larger = more OOD."""

    pairs, rows = staticmethod(bhattacharyya_pairs), staticmethod(bhattacharyya)
