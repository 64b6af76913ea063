"""From scores to decisions: conformal thresholds, p-values, false discoveries.

All need calibration scores of held-out ID images that neither the model nor the detector was fitted on. A
score is larger, and a p-value smaller, for what looks more OOD.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from sslood.core.errors import InputError
from sslood.ood.measures.metrics import valid_scores

FEW = 200  # calibration images below which p-values and combinations can do little


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


def p_values(calibration: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Return (1 + number of calibration scores at or above) / (n + 1) for each score: float64 [N].

    Ties count against the image, so an ID image has a p-value of at most t with probability at most t
    for every t, whatever the score's distribution. `p <= alpha` decides like `score > threshold`.
    Raises InputError for NaN or an empty side.
    """
    ordered = np.sort(valid_scores(calibration, "calibration"))
    at_or_above = ordered.size - np.searchsorted(ordered, valid_scores(scores, "test"), side="left")
    return (1.0 + at_or_above) / (ordered.size + 1.0)


def adjusted_p_values(p: np.ndarray) -> np.ndarray:
    """Return the adjusted p-values of a batch of images by Benjamini and Hochberg's method: float64 [N].

    ("Controlling the false discovery rate", 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.) If images at or
    below q are called OOD, the expected share of ID images among them is at most q; this holds for conformal
    p-values of one calibration set (Bates et al., "Testing for outliers with conformal p-values", 2023,
    arXiv:2104.08279). Raises InputError for NaN, or values outside [0, 1].
    """
    p = valid_scores(p, "p-value")
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("p-values must lie between 0 and 1; make them with p_values")
    order = np.argsort(p, kind="stable")
    steps = p[order] * (p.size / np.arange(1, p.size + 1))
    result = np.empty(p.size)
    result[order] = np.minimum(1.0, np.minimum.accumulate(steps[::-1])[::-1])
    return result


def check_rate(rate: float, calibration: int) -> None:
    """Raise InputError if p-values from `calibration` images are too coarse for this false-discovery rate.

    A conformal p-value is never below 1 / (calibration + 1).
    """
    if calibration < images_needed(rate):
        raise InputError(
            f"a false-discovery rate of {rate} needs at least {images_needed(rate)} calibration images, "
            f"there are {calibration}; calibrate on more ID images or raise the rate"
        )


def discoveries(p: np.ndarray, rate: float, calibration: int) -> np.ndarray:
    """Return bool [N]: the images to call OOD, of which at most the share `rate` is expected to be ID.

    p [N]: conformal p-values of all images that are decided about together, from `calibration` images.
    Raises InputError for a rate that they do not allow (`check_rate`).
    """
    check_rate(rate, calibration)
    return adjusted_p_values(p) <= rate
