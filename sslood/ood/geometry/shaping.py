"""What ASH and SCALE share: the largest features of an image, and the factor from their sum."""

import numpy as np


def largest(rows: np.ndarray, pruned: float) -> np.ndarray:
    """Return bool [N, D]: all but the share `pruned` of smallest features of each row; ties by position."""
    kept = rows.shape[1] - round(rows.shape[1] * pruned)
    result = np.zeros(rows.shape, bool)
    order = np.argsort(-rows, axis=1, kind="stable")[:, : max(1, kept)]
    np.put_along_axis(result, order, True, axis=1)
    return result


def scaling(rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return exp(s1 / s2) [N, 1], s1 the sum of a row, s2 that of its kept entries.

    A row whose kept entries sum to zero or less, which no ReLU gives but for an all-zero row, has factor e.
    """
    whole, part = rows.sum(axis=1), np.where(kept, rows, 0.0).sum(axis=1)
    some = part > 0
    # the mean of the largest is at least that of all: the ratio never exceeds D / kept
    ratio = np.divide(whole, part, out=np.ones(len(rows)), where=some)
    return np.exp(ratio)[:, None]
