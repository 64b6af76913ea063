"""Principal directions of features, for detectors that look at what lies outside of them."""

import numpy as np
import torch
from torch import Tensor

from sslood.ood.geometry.products import length, product

DUST = 1e-12  # of a row's length: what lies along directions that it does not have is rounding below this


def eigenvectors(moments: np.ndarray) -> np.ndarray:
    """Return the eigenvectors of a symmetric matrix as columns, the largest eigenvalue first."""
    return np.linalg.eigh(moments)[1][:, ::-1].copy()


def dimensions(share: float, width: int) -> int:
    """Return `share` of `width` dimensions as a number: at least one, and not all if there are two."""
    return max(1, min(width - 1, round(share * width)))


def lengths_along(rows: Tensor, centre: Tensor, basis: Tensor) -> Tensor:
    """Return the lengths of (rows - centre) @ basis, basis [D, d]: float64 [n]; 0 where rounding is all.

    Processors round differently, so that scores made of rounding errors would differ, too.
    """
    centred = rows - centre
    along = length(product(centred, basis))
    return torch.where(along > DUST * length(centred), along, 0.0)
