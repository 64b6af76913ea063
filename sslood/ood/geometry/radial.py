"""Features divided by a power of their length, which Gaussians of features need: short features lie near
every mean.

Power 1: Mueller and Hein, "Mahalanobis++", ICML 2025. Any power: Janiak et al., 2025, arXiv:2510.15202.
"""

from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sslood.ood.geometry.covariance import Transform
from sslood.ood.geometry.products import length, number

BETAS = (0.0, 0.5, 1.0, 1.5)  # of the second paper's range, steps of a half
MEANING = "exponent of the length that features are divided by; 0 = not divided, 1 = Mahalanobis++"
Rows = TypeVar("Rows", "np.ndarray", Tensor)


def radial(rows: Tensor, beta: float) -> Tensor:
    """Return z / |z|^beta of float64 rows z [n, D]; rows of zeros stay as they are, and all do at beta 0."""
    if beta == 0:
        return rows
    norm = length(rows)
    return rows / (torch.where(norm > 0, norm, 1.0) ** number(beta))[:, None]


def radial_transform(beta: float) -> Transform:
    """Return the same as a function of float arrays [n, D]."""
    return partial(_array, beta=beta)


def _array(rows: np.ndarray, beta: float) -> np.ndarray:
    return rows if beta == 0 else radial(torch.from_numpy(rows.astype(np.float64)), beta).numpy()
