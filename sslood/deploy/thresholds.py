"""From scores to decisions: conformal p-values, false discoveries.

All need calibration scores of held-out ID images that neither the model nor the detector was fitted on. A
score is larger, and a p-value smaller, for what looks more OOD.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from sslood.core.errors import InputError
from sslood.ood.measures.conformal import images_needed
from sslood.ood.measures.metrics import valid_scores

FEW = 200  # calibration images below which p-values and combinations can do little
ROUNDING = 1e-12  # share of a rate by which a product of p-values may be above it: 3 * 0.05 is not 0.15
_FINEST = 10**7  # images that calibrate, at most, for `times` to be exact


def in_percent(rate: float) -> str:
    """Return a rate as text: 0.05 as "5.0%", and one that has more digits with all of them."""
    text = f"{rate:.1%}"
    return text if np.isclose(float(text[:-1]), 100 * rate, rtol=1e-9, atol=0) else f"{100 * rate:.10g}%"


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


def times(count: int, p: float) -> float:
    """Return min(1, count * p) of a conformal p-value, rounded once: of the fraction that p stands for."""
    return min(1.0, float(count * Fraction(p).limit_denominator(_FINEST)))


def check_rate(rate: float, calibration: int) -> None:
    """Raise InputError for no false-discovery rate, and if p-values from `calibration` images are too coarse.

    A conformal p-value is never below 1 / (calibration + 1).
    """
    if not 0 < rate < 1:
        raise InputError(f"--fdr must be above 0 and below 1, found {rate}")
    if calibration < images_needed(rate):
        raise InputError(
            f"a false-discovery rate of {rate} needs at least {images_needed(rate)} calibration images, "
            f"there are {calibration}; calibrate on more ID images or raise the rate"
        )


def discoveries(p: np.ndarray, rate: float, calibration: int) -> np.ndarray:
    """Return bool [N]: the images to call OOD, of which at most the share `rate` is expected to be ID.

    p [N]: conformal p-values of all images that are decided about together, from `calibration` images. An
    adjusted p-value that equals the rate but for ROUNDING is not above it.
    Raises InputError for a rate that they do not allow (`check_rate`).
    """
    check_rate(rate, calibration)
    return adjusted_p_values(p) <= rate * (1 + ROUNDING)
