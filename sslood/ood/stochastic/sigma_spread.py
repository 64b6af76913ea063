"""Spread of the standard deviations within an image's Gaussian."""

import numpy as np

from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Outputs


class SigmaSpread(Detector):
    """Standard deviation over d of sigma_d: the more uneven the embedding's certainty, the more OOD.

    A model with one sigma for all dimensions scores 0 everywhere.
    """

    reads = ("mu", "log_variance")

    def _score(self, outputs: Outputs) -> np.ndarray:
        return np.exp(0.5 * outputs.log_variance.astype(np.float64)).std(axis=1)
