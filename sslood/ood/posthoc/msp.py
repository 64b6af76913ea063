"""Maximum softmax probability (Hendrycks and Gimpel 2017), in log space."""

import numpy as np

from sslood.ood.kit.detector import Detector
from sslood.ood.kit.log_softmax import log_of_rest
from sslood.ood.kit.outputs import Outputs


class Msp(Detector):
    """log(1 - max softmax): ranks as 1 - max softmax does, without float32's ties at 0."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return log_of_rest(outputs.logits)
