"""Softmax at a high temperature, without losing the digits in which images differ.

At T = 1000 every probability is nearly 1 / K: entropies of two images differ in the sixth digit, and float64
computed the plain way keeps nine digits of that difference, too few to be the same on every processor once a
score is rounded. Measured from the uniform distribution instead, all digits are kept; ranks stay as they are.
"""

import torch
from torch import Tensor


def log_ratio_to_uniform(logits: Tensor, temperature: float) -> Tensor:
    """Return log(K p) [N, K] in float64 for p = softmax(logits / temperature), logits [N, K].

    With z the logits over T less their mean, log(K p) = z - log(mean exp z), and the mean is 1 plus a small
    number, which expm1 and log1p keep to all digits where 1 plus it would not.
    """
    z = logits.double() / temperature
    z = z - z.mean(1, keepdim=True)
    top = z.amax(1, keepdim=True).clamp_min(0.0)
    near = torch.log1p(torch.expm1(z.clamp_max(30.0)).mean(1, keepdim=True))
    far = torch.logsumexp(z, 1, keepdim=True) - torch.log(torch.tensor(float(z.shape[1]), dtype=z.dtype))
    return z - torch.where(top < 30.0, near, far.to(z.device))  # beyond, exp would overflow


def largest_above_uniform(logits: Tensor, temperature: float) -> Tensor:
    """Return max_c p_c - 1 / K [N] in float64."""
    ratio = log_ratio_to_uniform(logits, temperature)
    return torch.expm1(ratio.amax(1)) / logits.shape[1]


def entropy_below_uniform(logits: Tensor, temperature: float) -> Tensor:
    """Return H(p) - log K [N] in nats, float64: the negative divergence from the uniform distribution.

    sum p log(K p) = mean(r expm1(r)) + mean(r) for r = log(K p): the first mean has terms of one sign.
    """
    ratio = log_ratio_to_uniform(logits, temperature)
    return -((ratio * torch.expm1(ratio)).mean(1) + ratio.mean(1))
