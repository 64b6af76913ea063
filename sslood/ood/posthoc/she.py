"""SHE, simplified Hopfield energy (Zhang et al. 2023): product with the pattern of the predicted class."""

import numpy as np

from sslood.ood.kit.detector import check_counts, known_labels
from sslood.ood.kit.fitting import Streaming, Sums, class_sums
from sslood.ood.kit.outputs import Outputs


class She(Streaming):
    """-z^T s_c*, s_c the mean features of the ID train images of class c that are classified rightly.

    c* is the predicted class. A class of which no image is classified rightly has the mean of all its
    images as pattern.
    """

    reads = ("features", "logits")

    def _gather(self, source: Outputs) -> Sums:
        labels, right = known_labels(source), source.labels == source.logits.argmax(axis=1)
        count = max(source.classes, source.logits.shape[1])
        rows = source.features
        return {
            "all": class_sums(rows, labels, count),
            "right": class_sums(rows[right], labels[right], count),
        }

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        check_counts(sums["all"][: source.classes, -1], source.name)
        chosen = np.where(sums["right"][:, -1:] > 0, sums["right"], sums["all"])
        return {"patterns": chosen[:, :-1] / np.maximum(chosen[:, -1:], 1)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        pattern = self.state["patterns"][outputs.logits.argmax(axis=1)]
        return -np.einsum("nd,nd->n", outputs.features.astype(np.float64), pattern)
