"""fDBD: distance of the features to the decision boundaries.

Liu and Qin: Fast Decision Boundary based Out-of-Distribution Detector, ICML 2024, arXiv:2312.11536.
"""

import numpy as np
from torch import Tensor

from sslood.ood.geometry.logits import head_logits, head_state
from sslood.ood.geometry.products import divisor
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import Streaming, Sums, feature_sum, mean_of
from sslood.ood.kit.outputs import Outputs


class FDBD(Streaming):
    """-mean over c != c* of |f_c* - f_c| / (|w_c* - w_c| |z - mean|), c* the predicted class.

    The mean is that of the ID train features. Two classes of equal weights have no boundary and add 0.
    """

    reads = ("features",)
    needs_head = True
    least_classes = 2

    def _gather(self, source: Outputs) -> Sums:
        return feature_sum(source)

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        state = head_state(source.need_head())
        weight = state["weight"]
        gaps = np.stack([np.linalg.norm(weight - row, axis=1) for row in weight])
        inverse = np.divide(1.0, gaps, out=np.zeros_like(gaps), where=gaps > 0) / (len(weight) - 1)
        return {**state, "mean": mean_of(sums), "inverse_gaps": inverse}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        logits = head_logits(state, parts["features"])
        gaps = logits.amax(1, keepdim=True) - logits
        boundary = (gaps * state["inverse_gaps"][logits.argmax(1)]).sum(1)
        return -boundary / divisor(parts["features"] - state["mean"])
