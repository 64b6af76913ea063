"""Entropy of the predicted classes.

As a score for OOD inputs in Chan, Rottmann and Gottschalk: Entropy Maximization and Meta Classification for
Out-of-Distribution Detection in Semantic Segmentation, ICCV 2021, arXiv:2012.06575.
"""

from torch import Tensor

from sslood.ood.geometry.logits import log_probabilities
from sslood.ood.kit.detector import Detector, Tensors


class Entropy(Detector):
    """H(p) = -sum_c p_c log p_c, in nats."""

    reads = ("logits",)
    least_classes = 2  # a single class has entropy 0 always

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        logs = log_probabilities(parts["logits"])
        return -(logs.exp() * logs).sum(1)
