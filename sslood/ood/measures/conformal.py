"""A threshold on scores that keeps a promise: how many ID images are called OOD.

It needs calibration scores of held-out ID images that neither the model nor the detector was fitted on. A
score is larger for what looks more OOD.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from sslood.core.errors import InputError
from sslood.ood.measures.metrics import valid_scores


@dataclass(frozen=True)
class Threshold:
    """Images that score above `value` are called OOD.

    alpha: the highest probability that an ID image is called OOD, over calibration set and image together.
    images: number of calibration images. low, high: bounds of the share of ID images called OOD, given this
    calibration set, with probability `confidence` (if no two scores are equal; ties only lower the share).
    """

    value: float
    alpha: float
    images: int
    low: float
    high: float
    confidence: float


def _exact(alpha: float) -> Fraction:
    """Return alpha as the decimal fraction that was written: 0.29 * 100 is 29, but less in floats."""
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha must be above 0 and below 1, found {alpha}")
    return Fraction(repr(float(alpha)))


def images_needed(alpha: float) -> int:
    """Return the fewest calibration images that allow a rate of alpha: ceil(1 / alpha) - 1."""
    return ceil(1 / _exact(alpha)) - 1


def conformal_threshold(calibration: ArrayLike, alpha: float, *, confidence: float = 0.95) -> Threshold:
    """Return the ceil((n + 1)(1 - alpha))-th smallest of n calibration scores, for `score > value`.

    Split conformal prediction (Papadopoulos et al., "Inductive confidence machines for regression", 2002;
    for the distribution of the rate Vovk, "Conditional validity of inductive conformal predictors", 2012,
    arXiv:1209.2673). An ID image exchangeable with the calibration images is called OOD with probability at
    most alpha, and with more than alpha - 1 / (n + 1) if no scores tie. Given the calibration set, the rate
    is Beta(l, n + 1 - l) with l = floor((n + 1) alpha). Raises InputError for scores that are not finite, a
    rate outside (0, 1), or fewer than `images_needed(alpha)` scores.
    """
    scores = finite_scores(calibration, "calibration")
    count, rate = scores.size, _exact(alpha)
    if count < images_needed(alpha):
        raise InputError(
            f"a threshold for alpha {alpha} needs at least {images_needed(alpha)} calibration images, "
            f"there are {count}; calibrate on more ID images or raise alpha"
        )
    above = floor((count + 1) * rate)
    index = count - above  # from 0; n + 1 - l = ceil((n + 1)(1 - alpha)) counted from 1
    tail = (1.0 - confidence) / 2
    low, high = beta.ppf([tail, 1.0 - tail], above, count + 1 - above)
    value = float(np.partition(scores, index)[index])
    return Threshold(value, float(alpha), count, float(low), float(high), confidence)


def finite_scores(scores: ArrayLike, side: str) -> np.ndarray:
    """Return `scores` as float64 [N]; InputError if there are none, or some are NaN or infinite.

    An infinite threshold would call every image ID, or every one OOD.
    """
    found = valid_scores(scores, side)
    if bad := int((~np.isfinite(found)).sum()):
        raise InputError(
            f"{bad} of {found.size} {side} scores are infinite, so they decide nothing; the network or the "
            "detector gives numbers that are too large: look at its training and its settings"
        )
    return found
