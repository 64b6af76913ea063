"""From scores to decisions: conformal thresholds, p-values, their combination, false discoveries.

All rest on calibration scores of held-out ID images that neither the model nor the detector saw while
training. A score is larger for what looks more OOD; a p-value is small for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal

import numpy as np
from scipy.stats import beta, cauchy, chi2

from sslood.core.errors import InputError
from sslood.ood.measures.metrics import valid_scores

Combination = Literal["fisher", "simes", "cauchy"]


@dataclass(frozen=True)
class Threshold:
    """Images that score above `value` are called OOD.

    alpha: the highest chance that an ID image is called OOD, over calibration set and image together.
    images: calibration images. low, high: where the share of ID images called OOD lies, given this
    calibration set, with probability `confidence` (if no two scores are equal; ties only lower it).
    """

    value: float
    alpha: float
    images: int
    low: float
    high: float
    confidence: float


def _exact(alpha: float) -> Fraction:
    """Return alpha as the decimal fraction that was written: 0.29 * 100 is 29, in floats it is less."""
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha is {alpha}; the share of ID images to be called OOD lies between 0 and 1")
    return Fraction(repr(float(alpha)))


def images_needed(alpha: float) -> int:
    """Return the fewest calibration images that allow a rate of alpha: ceil(1 / alpha) - 1."""
    return ceil(1 / _exact(alpha)) - 1


def conformal_threshold(calibration, alpha: float, *, confidence: float = 0.95) -> Threshold:
    """Return the ceil((n + 1)(1 - alpha))-th smallest of n calibration scores, for `score > value`.

    Split conformal prediction (Papadopoulos et al. 2002; Vovk 2012 for the distribution of the rate):
    an ID image exchangeable with the calibration images is called OOD with probability at most alpha,
    and with more than alpha - 1 / (n + 1) if no scores tie. Given the calibration set, the rate is
    Beta(l, n + 1 - l) with l = floor((n + 1) alpha). Raises InputError for NaN, a rate outside (0, 1),
    or fewer than `images_needed(alpha)` scores.
    """
    scores = valid_scores(calibration, "calibration")
    count, rate = scores.size, _exact(alpha)
    if count < images_needed(alpha):
        raise InputError(
            f"a threshold for alpha {alpha} needs at least {images_needed(alpha)} calibration images, "
            f"there are {count}; calibrate on more ID images or raise alpha"
        )
    above = floor((count + 1) * rate)
    place = count - above  # 0-based; n + 1 - l = ceil((n + 1)(1 - alpha)) counted from 1
    tail = (1.0 - confidence) / 2
    low, high = beta.ppf([tail, 1.0 - tail], above, count + 1 - above)
    value = float(np.partition(scores, place)[place])
    return Threshold(value, float(alpha), count, float(low), float(high), confidence)


def p_values(calibration, scores) -> np.ndarray:
    """Return (1 + number of calibration scores at or above) / (n + 1) for each score: float64 [N].

    Ties count against the image, so an ID image has a p-value of at most t with probability at most t
    for every t, whatever the score's distribution. `p <= alpha` and `score > threshold` decide alike.
    Raises InputError for NaN or an empty side.
    """
    ordered = np.sort(valid_scores(calibration, "calibration"))
    at_or_above = ordered.size - np.searchsorted(ordered, valid_scores(scores, "test"), side="left")
    return (1.0 + at_or_above) / (ordered.size + 1.0)


def tail_p_values(reference, scores) -> np.ndarray:
    """Return (1/2 + number of reference scores at or above) / (n + 1) for each score: float64 [N].

    Beyond the largest of n reference scores, where counting tells images apart no more, it falls as
    1 / (1 + excess / scale), with the mean excess of the upper tenth of the reference as scale. What rests on
    these values must be calibrated anew: they are no conformal p-values. Never 0 and never 1, which would
    outvote all others of a combination. Raises InputError for NaN or an empty side.
    """
    ordered, scores = np.sort(valid_scores(reference, "reference")), valid_scores(scores, "test")
    count = ordered.size
    p = (0.5 + count - np.searchsorted(ordered, scores, side="left")) / (count + 1.0)
    beyond = scores > ordered[-1]
    tail = ordered[-max(2, ceil(count / 10)) :]
    with np.errstate(invalid="ignore"):
        scale = tail.mean() - tail[0]
    scale = scale if np.isfinite(scale) and scale > 0 else 1.0
    p[beyond] /= 1.0 + (scores[beyond] - ordered[-1]) / scale
    return np.maximum(p, np.finfo(np.float64).tiny)


def evidence(
    references: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], method: Combination
) -> np.ndarray:
    """Return -log of the combined p-value of several detectors, in nats: float64 [N], larger = more OOD.

    references and scores by detector: of ID images, and of the images to judge. The p-values among
    the references (`tail_p_values`) put the detectors on one scale, whatever theirs was. Without any
    guarantee of its own, it is a score like another: calibrate it on images that are not among the
    references.
    """
    p = np.stack([tail_p_values(references[name], found) for name, found in scores.items()])
    return -np.log(np.maximum(combine(p, method), np.finfo(np.float64).tiny))


def combine(p: np.ndarray, method: Combination) -> np.ndarray:
    """Return one p-value an image from those of m detectors: [m, N] -> float64 [N].

    - fisher: chi^2 of -2 sum log p with 2m degrees of freedom; exact for independent detectors alone.
    - simes: min over i of m p_(i) / i (Simes 1986); valid for positively dependent ones, the usual case.
    - cauchy: mean of cot(pi p) against the Cauchy distribution (Liu and Xie 2020); nearly valid for
      small p under any dependence. A p of 1 cannot be outvoted: the result is then 1 too.

    Raises InputError for an unknown method, no detector, or values outside (0, 1].
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 2 or not len(p):
        raise InputError(f"p-values must have shape (detectors, images), found {p.shape}")
    if not ((p > 0) & (p <= 1)).all():
        raise InputError("p-values must lie above 0 and not above 1; make them with p_values")
    if method == "fisher":
        return chi2.sf(-2.0 * np.log(p).sum(axis=0), 2 * len(p))
    if method == "simes":
        rank = np.arange(1, len(p) + 1)[:, None]
        return np.minimum(1.0, (len(p) * np.sort(p, axis=0) / rank).min(axis=0))
    if method == "cauchy":
        return cauchy.sf((1.0 / np.tan(np.pi * p)).mean(axis=0))
    raise InputError(f"unknown combination {method!r}; known: cauchy, fisher, simes")


def adjusted_p_values(p: np.ndarray) -> np.ndarray:
    """Return Benjamini and Hochberg's (1995) adjusted p-values of a batch of images: float64 [N].

    Calling OOD what is at or below q keeps the expected share of ID images among those called OOD at
    or below q; it holds for conformal p-values of one calibration set (Bates et al. 2023).
    Raises InputError for NaN, or values outside [0, 1].
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

    p [N]: conformal p-values of all images that are judged together, from `calibration` images.
    Raises InputError for a rate that they do not allow (`check_rate`).
    """
    check_rate(rate, calibration)
    return adjusted_p_values(p) <= rate
