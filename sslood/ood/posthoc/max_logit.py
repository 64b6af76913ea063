"""Maximum logit (Hendrycks et al. 2022)."""

import numpy as np

from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Outputs


class MaxLogit(Detector):
    """-max_c f_c(x)."""

    reads = ("logits",)

    def _score(self, outputs: Outputs) -> np.ndarray:
        return -outputs.logits.max(axis=1).astype(np.float64)
