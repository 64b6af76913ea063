"""Cross-entropy of a classifier, of classes or of quarter turns, with its accuracy."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sslood.core.precision import at_least_float32


def cross_entropy_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean cross-entropy in at least float32, accuracy) of logits [N, K] and labels [N]."""
    accuracy = (logits.argmax(1) == labels).float().mean()
    return cross_entropy(at_least_float32(logits), labels), accuracy


def rotation_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return `cross_entropy_and_accuracy` of logits [4 N, 4] for images that `rotations` turned.

    Gidaris et al. 2018, "Unsupervised representation learning by predicting image rotations",
    arXiv:1803.07728, eq. 2 and 3.
    """
    turns = torch.arange(4, device=logits.device).repeat_interleave(len(logits) // 4)
    return cross_entropy_and_accuracy(logits, turns)
