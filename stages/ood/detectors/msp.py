"""Maximum softmax probability (Hendrycks and Gimpel 2017), in log space."""

import numpy as np

from stages.ood.detector import Detector
from stages.ood.logs import log_of_rest
from stages.ood.outputs import Outputs


class Msp(Detector):
    """log(1 - max softmax): ranks as 1 - max softmax does, without float32's ties at 0."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return log_of_rest(outputs.logits)
