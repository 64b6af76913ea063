"""Softmax in log space, float64: probabilities near 1 keep their differences."""

import numpy as np
from scipy.special import log_softmax, logsumexp


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return log softmax(logits / temperature): float64 [N, K]."""
    return log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def log_of_rest(logits: np.ndarray) -> np.ndarray:
    """Return log(1 - max softmax): float64 [N], -inf for a single class.

    With m the largest logit and r the log-sum-exp of the others, 1 - max p = e^r / (e^m + e^r), whose
    logarithm -log(1 + e^(m - r)) never saturates, where max p in float32 is 1.0 from m - r = 17 on.
    """
    logits = np.array(logits, dtype=np.float64)
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    largest = logits[rows, top]
    logits[rows, top] = -np.inf
    with np.errstate(divide="ignore"):
        return -np.logaddexp(0.0, largest - logsumexp(logits, axis=1))
