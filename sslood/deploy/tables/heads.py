"""The classifier of a model that is elsewhere, from the vectors and logits that it gave."""

import numpy as np

from sslood.ood.kit.outputs import Head, chunks

EXACT = 1e-3  # of the logits' spread: what float16 costs; logits of another layer differ by far more


def recovered_head(vectors: np.ndarray, logits: np.ndarray) -> Head | None:
    """Return weight and bias, float32, with logits [N, K] = vectors [N, D] W^T + b, by least squares.

    None if no linear classifier gives these logits, as where the vectors are not those before its last layer,
    or if there are too few images to tell. In float64, in memory of D^2.
    """
    width, classes = vectors.shape[1], logits.shape[1]
    if len(vectors) <= width:
        return None
    gram, cross = np.zeros((width + 1, width + 1)), np.zeros((width + 1, classes))
    for rows, answers in zip(chunks(vectors), chunks(logits), strict=True):
        known = np.column_stack([rows.astype(np.float64), np.ones(len(rows))])
        gram += known.T @ known
        cross += known.T @ answers.astype(np.float64)
    solution = np.linalg.lstsq(gram, cross, rcond=1e-12)[0]
    head = Head(solution[:-1].T.astype(np.float32), solution[-1].astype(np.float32))
    furthest = max(
        float(np.abs(head.logits(rows) - answers).max())
        for rows, answers in zip(chunks(vectors), chunks(logits), strict=True)
    )
    return head if furthest <= EXACT * float(np.std(logits, dtype=np.float64)) else None
