"""The coordinates of SSD: L2-normalised rows, each dimension standardised on ID train."""

from dataclasses import dataclass

import numpy as np

from sslood.core.rows import unit_rows
from sslood.ood.kit.outputs import chunks

CONSTANT = 1e-10  # a spread below this, as a share of the rows' length, is rounding


@dataclass(frozen=True)
class Standard:
    """z = (x / |x| - mean) / std, float64; mean and std [D]."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return (unit_rows(rows.astype(np.float64)) - self.mean) / self.std


def fit_standard(rows: np.ndarray) -> Standard:
    """Return the standardisation of ID train rows [N, D].

    A dimension that is constant on ID train is only centred: dividing by its spread of zero would
    let a single unit decide about every other image.
    """
    mean, square = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for piece in chunks(rows):
        mean += unit_rows(piece.astype(np.float64)).sum(axis=0) / len(rows)
    for piece in chunks(rows):
        square += ((unit_rows(piece.astype(np.float64)) - mean) ** 2).sum(axis=0) / len(rows)
    return Standard(mean, usable_spread(np.sqrt(square)))


def usable_spread(std: np.ndarray, length: float | np.ndarray = 1.0) -> np.ndarray:
    """Return spreads [D] to divide by: where one is constant, `length`, the usual size of what it is of."""
    return np.where(std < CONSTANT * length, length, std)
