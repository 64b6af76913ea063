"""Principal directions of features, for detectors that look at what lies outside of them."""

import numpy as np

from sslood.ood.kit.outputs import chunks


def eigenvectors(moments: np.ndarray) -> np.ndarray:
    """Return the eigenvectors of a symmetric matrix, one a column, the largest eigenvalue first."""
    return np.linalg.eigh(moments)[1][:, ::-1]


def dimensions(share: float, width: int) -> int:
    """Return `share` of `width` dimensions as a number: at least one, and not all if there are two."""
    return max(1, min(width - 1, round(share * width)))


def lengths_along(rows: np.ndarray, centre: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return the lengths of (rows - centre) @ basis, basis [D, d]: float64 [N]."""
    pieces = [(piece.astype(np.float64) - centre) @ basis for piece in chunks(rows)]
    return np.concatenate([np.linalg.norm(piece, axis=1) for piece in pieces])
