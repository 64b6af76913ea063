"""The coordinates of SSD: L2-normalised rows, each dimension standardised on ID train."""

from dataclasses import dataclass

import numpy as np

from sslood.ood.geometry.directions import normalise
from sslood.ood.kit.outputs import chunks

CONSTANT = 1e-10  # a spread below this, in rows of length one, is rounding


@dataclass(frozen=True)
class Standard:
    """z = (normalise(x) - mean) / std, float64; mean and std [D]."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        result = normalise(rows)
        result -= self.mean
        result /= self.std
        return result


def fit_standard(rows: np.ndarray) -> Standard:
    """Return the standardisation of ID train rows [N, D].

    A dimension that is constant on ID train is only centred: dividing by its spread of zero would
    let a single unit decide about every other image.
    """
    total = sum(normalise(piece).sum(axis=0) for piece in chunks(rows))
    mean = total / len(rows)
    std = np.sqrt(sum(((normalise(piece) - mean) ** 2).sum(axis=0) for piece in chunks(rows)) / len(rows))
    return standard_of(mean, std)


def standard_of(mean: np.ndarray, std: np.ndarray) -> Standard:
    """Return the standardisation from mean and spread [D] of ID train, constant dimensions only centred."""
    return Standard(mean, np.where(std < CONSTANT, 1.0, std))
