"""Mean standard deviation of an image's Gaussian."""

import numpy as np

from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Outputs


class SigmaMean(Detector):
    """mean_d sigma_d: the less sure the embedding, the more OOD.

    Studies of stochastic embeddings have also used the opposite sign. This one is declared, as the
    usual reading of a variance, and stays: an AUROC below 0.5 says that the model is surer off its data.
    """

    reads = ("mu", "log_variance")

    def _score(self, outputs: Outputs) -> np.ndarray:
        return np.exp(0.5 * outputs.log_variance.astype(np.float64)).mean(axis=1)
