"""Scores of logits, and of features by the classifier: float64, so that probabilities near 1 still differ."""

import numpy as np
import torch
from torch import Tensor

from sslood.ood.kit.outputs import Head


def head_state(head: Head) -> dict[str, np.ndarray]:
    """Return the classifier as the state of a detector: weight [K, D] and bias [K], float64."""
    return {"weight": head.weight.astype(np.float64), "bias": head.bias.astype(np.float64)}


def head_logits(state: dict[str, Tensor], features: Tensor) -> Tensor:
    """Return the classifier's logits [n, K] of features [n, D]."""
    return features @ state["weight"].T + state["bias"]


def free_energy(state: dict[str, Tensor], features: Tensor) -> Tensor:
    """Return -log sum_c exp(w_c z + b_c): [n]."""
    return -torch.logsumexp(head_logits(state, features), 1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log softmax(logits): [n, K]."""
    return torch.log_softmax(logits, 1)


def log_of_rest(logits: Tensor) -> Tensor:
    """Return log(1 - max softmax): [n], -inf for a single class.

    With m the largest logit and r the log-sum-exp of the others, 1 - max p = e^r / (e^m + e^r), whose
    logarithm -log(1 + e^(m - r)) never saturates, where max p in float32 is 1.0 from m - r = 17 on.
    """
    top = logits.argmax(1, keepdim=True)
    others = torch.where(torch.arange(logits.shape[1], device=logits.device) == top, -torch.inf, logits)
    gap = logits.amax(1) - torch.logsumexp(others, 1)
    return -(gap.clamp_min(0.0) + torch.log1p(torch.exp(-gap.abs())))


def log_probability_and_rest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log p, log(1 - p)) of all classes, [n, K] each: of probabilities near 1 all digits of both.

    Of the largest, either comes from the other classes. No other p is above 1/2, so log(1 - p) keeps its
    digits.
    """
    logs = log_probabilities(logits)
    top = torch.arange(logits.shape[1], device=logits.device) == logits.argmax(1, keepdim=True)
    rest = log_of_rest(logits)[:, None]
    sure = torch.log1p(-rest.exp().clamp_max(1.0 - 1.0 / logits.shape[1]))
    return torch.where(top, sure, logs), torch.where(top, rest, torch.log1p(-logs.exp().clamp_max(0.75)))
