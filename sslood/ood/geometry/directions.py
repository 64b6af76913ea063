"""Rows as directions: L2 normalisation, before SSD and nearest neighbours."""

import numpy as np

from sslood.ood.kit.outputs import chunks


def normalise(rows: np.ndarray) -> np.ndarray:
    """Return rows / (norm + 1e-10) in float64; a zero row stays zero."""
    result = np.array(rows, dtype=np.float64)
    result /= np.sqrt(np.einsum("...d,...d->...", result, result))[..., None] + 1e-10
    return result


def directions(rows: np.ndarray) -> np.ndarray:
    """Return `normalise(rows)` as float32 without a float64 copy of all rows."""
    result = np.empty(rows.shape, np.float32)
    start = 0
    for piece in chunks(rows):
        result[start : start + len(piece)] = normalise(piece)
        start += len(piece)
    return result
