"""Entropy of the predicted classes."""

import numpy as np

from sslood.ood.kit.detector import Detector
from sslood.ood.kit.log_softmax import log_probabilities
from sslood.ood.kit.outputs import Outputs


class Entropy(Detector):
    """H(p) = -sum_c p_c log p_c, in nats."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        logs = log_probabilities(outputs.logits)
        return -(np.exp(logs) * logs).sum(axis=1)
