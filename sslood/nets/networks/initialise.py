"""Initial weights that are the same on every CPU: drawn in float64, whatever the dtype of the parameter."""

import math
from typing import Literal

import torch
from torch import Tensor

from sslood.core.precision import standard_normal


@torch.no_grad()
def normal_(weight: Tensor, std: float = 1.0) -> None:
    """Fill `weight` from N(0, std^2), from torch's default generator (see `build.seeded`)."""
    weight.copy_(std * standard_normal(weight.shape))


def he_normal_(weight: Tensor, mode: Literal["fan_in", "fan_out"]) -> None:
    """Fill [outputs, inputs, …] from N(0, 2 / fan), for layers before a ReLU.

    He et al. 2015, "Delving deep into rectifiers", arXiv:1502.01852.
    """
    fan = weight.shape[1 if mode == "fan_in" else 0] * weight[0, 0].numel()
    normal_(weight, math.sqrt(2 / fan))


@torch.no_grad()
def orthogonal_(weight: Tensor) -> None:
    """Fill [outputs, inputs] with a matrix whose rows or columns, whichever are fewer, are orthonormal.

    The factor Q of a random normal matrix, with the signs that make it uniform (Saxe et al. 2014,
    arXiv:1312.6120).
    """
    rows, columns = weight.shape
    draws = standard_normal((max(rows, columns), min(rows, columns)))
    q, r = torch.linalg.qr(draws)
    q = q * r.diagonal().sign()
    weight.copy_(q if rows >= columns else q.T)
