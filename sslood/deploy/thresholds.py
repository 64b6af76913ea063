"""From scores to decisions: conformal p-values, their combination, false discoveries.

All need calibration scores of held-out ID images that neither the model nor the detector was fitted on. A
score is larger, and a p-value smaller, for what looks more OOD.
"""

from collections.abc import Mapping
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import cauchy, chi2

from sslood.core.errors import InputError
from sslood.ood.measures.conformal import images_needed
from sslood.ood.measures.metrics import valid_scores

Combination = Literal["fisher", "simes", "cauchy"]
FEW = 200  # calibration images below which p-values and combinations can do little


def p_values(calibration: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Return (1 + number of calibration scores at or above) / (n + 1) for each score: float64 [N].

    Ties count against the image, so an ID image has a p-value of at most t with probability at most t
    for every t, whatever the score's distribution. `p <= alpha` decides like `score > threshold`.
    Raises InputError for NaN or an empty side.
    """
    ordered = np.sort(valid_scores(calibration, "calibration"))
    at_or_above = ordered.size - np.searchsorted(ordered, valid_scores(scores, "test"), side="left")
    return (1.0 + at_or_above) / (ordered.size + 1.0)


def tail_p_values(reference: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Return (1/2 + number of reference scores at or above) / (n + 1) for each score: float64 [N].

    Beyond the largest of n reference scores, where counting no longer separates images, it falls as
    1 / (1 + excess / scale), with the mean excess of the upper tenth of the reference as scale. These are not
    conformal p-values: a score made of them needs a calibration of its own. Never 0 and never 1, which would
    outvote all others of a combination. Raises InputError for NaN or an empty side.
    """
    ordered, values = np.sort(valid_scores(reference, "reference")), valid_scores(scores, "test")
    count = ordered.size
    p = (0.5 + count - np.searchsorted(ordered, values, side="left")) / (count + 1.0)
    beyond = values > ordered[-1]
    tail = ordered[-max(2, ceil(count / 10)) :]
    with np.errstate(invalid="ignore"):
        scale = tail.mean() - tail[0]
    scale = scale if np.isfinite(scale) and scale > 0 else 1.0
    p[beyond] /= 1.0 + (values[beyond] - ordered[-1]) / scale
    return np.maximum(p, np.finfo(np.float64).tiny)


def evidence(
    references: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], method: Combination
) -> np.ndarray:
    """Return -log of the combined p-value of several detectors, in nats: float64 [N], larger = more OOD.

    references, scores: by detector, of ID images and of the images to decide about. The p-values among the
    references (`tail_p_values`) put all detectors on one scale. The result has no guarantee of its own: it is
    a score, to be calibrated on images that are not among the references.
    """
    p = np.stack([tail_p_values(references[name], values) for name, values in scores.items()])
    return -np.log(np.maximum(combine(p, method), np.finfo(np.float64).tiny))


def combine(p: np.ndarray, method: Combination) -> np.ndarray:
    """Return one p-value per image from those of m detectors: [m, N] -> float64 [N].

    - fisher: chi^2 of -2 sum log p with 2m degrees of freedom (Fisher, "Statistical Methods for Research
      Workers", 1932); exact for independent detectors only.
    - simes: min over i of m p_(i) / i (Simes, "An improved Bonferroni procedure for multiple tests of
      significance", 1986, doi:10.1093/biomet/73.3.751); valid for positively dependent ones, the usual case.
    - cauchy: mean of cot(pi p) against the Cauchy distribution (Liu and Xie, "Cauchy combination test", 2020,
      arXiv:1808.09011); nearly valid for small p under any dependence. If one p is 1, so is the result.

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
