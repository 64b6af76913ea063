"""Maximum softmax probability (MSP), in log space.

Hendrycks and Gimpel: A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
Networks, ICLR 2017, arXiv:1610.02136.
"""

from torch import Tensor

from sslood.ood.geometry.logits import log_of_rest
from sslood.ood.kit.detector import Detector, Tensors


class MSP(Detector):
    """log(1 - max softmax): ranks as 1 - max softmax does, without float32's ties at 0."""

    reads = ("logits",)
    least_classes = 2  # a single class has probability 1 always

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return log_of_rest(parts["logits"])
