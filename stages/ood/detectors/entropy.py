"""Entropy of the predicted classes."""

import numpy as np

from stages.ood.detector import Detector
from stages.ood.logs import log_probabilities
from stages.ood.outputs import Outputs


class Entropy(Detector):
    """H(p) = -sum_c p_c log p_c, in nats."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        logs = log_probabilities(outputs.logits)
        return -(np.exp(logs) * logs).sum(axis=1)
