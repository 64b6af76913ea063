"""Products, constants and lengths in float64 that a graph can hold."""

import numpy as np
import torch
from torch import Tensor

LEAST = 1e-150  # a length to divide by where there is none; its square is still a float64


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return left [n, D] @ right [D, d].

    On a CPU numpy multiplies: its BLAS does up to twice the work of torch's on AMD and the same on Intel.
    """
    if left.device.type != "cpu" or torch.compiler.is_exporting():
        return left @ right
    return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))


def number(value: float) -> Tensor:
    """Return a constant as a float64 tensor: graphs hold Python numbers as float32."""
    return torch.tensor(value, dtype=torch.float64)


def divisor(rows: Tensor) -> Tensor:
    """Return the length of each row to divide by: [n], above 0."""
    return torch.maximum(length(rows), number(LEAST))


def length(rows: Tensor) -> Tensor:
    """Return the Euclidean length of each row: [n]."""
    return (rows * rows).sum(1).sqrt()
