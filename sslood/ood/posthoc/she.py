"""SHE, simplified Hopfield energy: product with the pattern of the predicted class.

Zhang et al.: Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern
Hopfield Energy, ICLR 2023, https://openreview.net/forum?id=KkazG4lgKL.
"""

import numpy as np
from torch import Tensor

from sslood.core.needs import LABELS
from sslood.ood.kit.detector import Arrays, Tensors, check_counts, known_labels
from sslood.ood.kit.fitting import Streaming, Sums, class_sums
from sslood.ood.kit.outputs import Outputs


class SHE(Streaming):
    """-z^T s_c*, s_c the mean features of the ID train images of class c that are classified correctly.

    c* is the predicted class. A class without correctly classified images has the mean of all its images
    as pattern.
    """

    reads = ("features", "logits")
    needs = (LABELS,)

    def _gather(self, source: Outputs) -> Sums:
        rows, logits, labels = source.need("features"), source.need("logits"), known_labels(source)
        correct = labels == logits.argmax(axis=1)
        count = max(source.need_classes(), logits.shape[1])
        return {
            "all": class_sums(rows, labels, count),
            "correct": class_sums(rows[correct], labels[correct], count),
        }

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        check_counts(sums["all"][: source.need_classes(), -1], source.name)
        correct: np.ndarray = sums["correct"]
        chosen = np.where(correct[:, -1:] > 0, correct, sums["all"])
        return {"patterns": chosen[:, :-1] / np.maximum(chosen[:, -1:], 1)}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return -(parts["features"] * state["patterns"][parts["logits"].argmax(1)]).sum(1)
