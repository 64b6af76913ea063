"""SHE, simplified Hopfield energy (Zhang et al. 2023): product with the pattern of the predicted class."""

import numpy as np

from stages.ood.detector import Detector, class_labels
from stages.ood.outputs import Outputs


class She(Detector):
    """-z^T s_c*, s_c the mean features of the ID train images of class c that are classified rightly.

    c* is the predicted class. A class of which no image is classified rightly has the mean of all its
    images as pattern.
    """

    reads = ("features", "logits")

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        labels, predicted = class_labels(source), source.logits.argmax(axis=1)
        patterns = np.zeros((source.logits.shape[1], source.features.shape[1]))
        for k in np.unique(labels):
            right = (labels == k) & (predicted == k)
            members = right if right.any() else labels == k
            patterns[k] = source.features[members].mean(axis=0, dtype=np.float64)
        return {"patterns": patterns}

    def _score(self, outputs: Outputs) -> np.ndarray:
        pattern = self.state["patterns"][outputs.logits.argmax(axis=1)]
        return -np.einsum("nd,nd->n", outputs.features.astype(np.float64), pattern)
