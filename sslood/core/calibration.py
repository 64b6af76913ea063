"""How far the confidence of class predictions is from their accuracy."""

import numpy as np
from scipy.special import softmax


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return sum over bins of share * |accuracy - confidence|, with bins of equal width.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    # bins are (a, b], so a confidence of exactly 1 falls into the last one
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))
