"""GradNorm: length of the gradient of the cross-entropy with a uniform label, of the last layer's weights.

Huang, Geng and Li: On the Importance of Gradients for Detecting Distributional Shifts in the Wild, NeurIPS
2021, arXiv:2110.00218, eq. 8.
"""

import torch
from torch import Tensor

from sslood.ood.geometry.products import number
from sslood.ood.kit.detector import Detector, Tensors


class GradNorm(Detector):
    """-|z|_1 |p - 1/K|_1: the gradient's L1 norm, which is an outer product and needs no backward pass."""

    reads = ("features", "logits")
    least_classes = 2  # a single class is the uniform distribution

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        logits = parts["logits"]
        gap = (torch.softmax(logits, 1) - number(1.0 / logits.shape[1])).abs().sum(1)
        return -parts["features"].abs().sum(1) * gap
