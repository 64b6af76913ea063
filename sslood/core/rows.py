"""Rows as directions: the one definition of L2 normalisation. Needs no torch, and takes its tensors."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Rows = TypeVar("Rows", "np.ndarray", "Tensor")


def unit_rows(rows: Rows) -> Rows:
    """Return float64 rows [..., D] divided by their Euclidean length; a row of zeros stays as it is.

    So does one whose squares are 0 in float64, of values below about 1e-162; from 1e-154 up to 1e154 lengths
    have all their digits.
    """
    length = (rows * rows).sum(-1) ** 0.5
    return rows / (length + (length == 0))[..., None]
