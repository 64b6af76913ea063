"""Spread of the standard deviations within an image's Gaussian."""

from torch import Tensor

from sslood.ood.kit.detector import Detector, Tensors


class SigmaSpread(Detector):
    """Standard deviation over d of sigma_d: the more uneven the embedding's certainty, the more OOD.

    A model with one sigma for all dimensions scores 0 everywhere.
    """

    reads = ("mu", "log_variance")

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return (0.5 * parts["log_variance"]).exp().std(1, correction=0)
