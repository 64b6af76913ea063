"""Principal directions of features, for detectors that look at what lies outside of them."""

import numpy as np
from torch import Tensor

from sslood.ood.geometry.products import length, product


def eigenvectors(moments: np.ndarray) -> np.ndarray:
    """Return the eigenvectors of a symmetric matrix as columns, the largest eigenvalue first."""
    return np.ascontiguousarray(np.linalg.eigh(moments)[1][:, ::-1])


def dimensions(share: float, width: int) -> int:
    """Return `share` of `width` dimensions as a number: at least one, and not all if there are two."""
    return max(1, min(width - 1, round(share * width)))


def lengths_along(rows: Tensor, centre: Tensor, basis: Tensor) -> Tensor:
    """Return the lengths of (rows - centre) @ basis, basis [D, d]: float64 [n]."""
    return length(product(rows - centre, basis))
