"""Principal directions of features, for detectors that look at what lies outside of them."""

import numpy as np
import torch
from torch import Tensor

from sslood.ood.geometry.products import length, product

# of a row's length: what is shorter is the rounding of float32 features
DUST = 2.0**-23


def directions(moments: np.ndarray, count: int, square: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` directions of largest second moment, and the others: [D, count], [D, D - count].

    moments [D, D]; square: the mean squared length of the rows. Directions along which rows differ by their
    rounding alone, as of dead units or beyond the number of images, are never principal: which of them came
    first would be up to the processor. So there may be fewer than `count`, even none.
    """
    values, vectors = np.linalg.eigh(moments)
    principal = min(count, int((values > DUST**2 * square).sum()))
    vectors = vectors[:, ::-1]
    # copies, since numpy takes an empty array of negative strides for contiguous, and torch refuses it
    return vectors[:, :principal].copy(), vectors[:, principal:].copy()


def dimensions(share: float, width: int) -> int:
    """Return `share` of `width` dimensions as a number: at least one, and not all if there are two."""
    return max(1, min(width - 1, round(share * width)))


def lengths_along(rows: Tensor, centre: Tensor, basis: Tensor) -> Tensor:
    """Return the lengths of (rows - centre) @ basis, basis [D, d]: float64 [n]; 0 where rounding is all.

    Processors round differently, so that scores made of rounding errors would differ, too.
    """
    centred = rows - centre
    along = length(product(centred, basis))
    return torch.where(along > DUST * (length(centred) + length(centre[None])), along, 0.0)
