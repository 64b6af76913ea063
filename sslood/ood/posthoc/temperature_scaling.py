"""Maximum softmax probability at the temperature that calibrates the classifier.

Guo, Pleiss, Sun and Weinberger: On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599.
"""

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import LeftOut
from sslood.core.needs import Need
from sslood.ood.geometry.logits import log_of_rest
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs

RANGE = (0.01, 100.0)  # a classifier that is always right has no best temperature: its loss falls to T = 0


def calibrating_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the T in RANGE of least mean -log softmax(logits / T)[label]; logits [N, K], labels [N].

    The loss is convex in 1 / T, so its least value is where the derivative is zero. There all digits of T are
    determined; of the flat minimum itself, rounding leaves half of them.
    """
    from scipy.optimize import brentq  # a quarter of a second that no other detector needs

    wide = torch.from_numpy(logits.astype(np.float64))
    gaps = wide - wide.gather(1, torch.from_numpy(np.array(labels, np.int64))[:, None])

    def slope(inverse: float) -> float:
        return float((torch.softmax(inverse * gaps, 1) * gaps).sum(1).mean())

    low, high = 1 / RANGE[1], 1 / RANGE[0]
    if slope(low) >= 0:
        return RANGE[1]
    if slope(high) <= 0:
        return RANGE[0]
    return 1 / float(brentq(slope, low, high, xtol=1e-15))


class TemperatureScaling(Streaming):
    """log(1 - max softmax(f / T)), T fitted on ID validation, of which batches and shards keep the logits."""

    piece = WHOLE
    reads = ("logits",)
    needs = (Need("validation", classes=1),)
    on_validation = True
    least_classes = 2

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "logits", "labels")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        logits, labels = sums["logits"].all, sums["labels"].all
        if labels.max() >= logits.shape[1]:
            raise LeftOut(
                f"an image has label {labels.max()}, but the classifier has {logits.shape[1]} classes",
                f"{source.name}: ",
            )
        return {"temperature": np.array([calibrating_temperature(logits, labels)])}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return log_of_rest(parts["logits"] / state["temperature"])
