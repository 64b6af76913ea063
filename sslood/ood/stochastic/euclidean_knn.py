"""Euclidean distance between the mean of the image's Gaussian and those of ID train, k-th nearest."""

from sslood.ood.geometry.gaussians import euclidean, euclidean_pairs
from sslood.ood.geometry.nearest_gaussian import NearestGaussian


class EuclideanKnn(NearestGaussian):
    """k-th smallest |mu_x - mu_i| over ID train images i; larger = more OOD. The variances play no part."""

    pairs, rows = staticmethod(euclidean_pairs), staticmethod(euclidean)
