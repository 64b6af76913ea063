"""Rows as directions: L2 normalisation, before SSD and nearest neighbours."""

import numpy as np


def normalise(rows: np.ndarray) -> np.ndarray:
    """Return rows / (norm + 1e-10) in float64; a zero row stays zero."""
    rows = np.asarray(rows, dtype=np.float64)
    return rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + 1e-10)
