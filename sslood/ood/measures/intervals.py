"""Intervals of the AUROC over the images of one run. Spread over seeds is something else: never mix them."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from sslood.core.errors import InputError
from sslood.core.needs import Need
from sslood.ood.measures.metrics import valid_scores

NEEDS = (Need("test", images=2),)  # of an interval, and of a test between two detectors


def twice_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each score twice the number of `others` below it, ties half: whole numbers [N]."""
    others = np.sort(others)
    below = np.searchsorted(others, scores, side="left")
    return np.asarray(below + np.searchsorted(others, scores, side="right"))


def placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each score the share of `others` below it, ties half: float64 [N]."""
    return np.asarray(twice_below(scores, others) / (2 * others.size))


def surely(pairs: int, confidence: float) -> float:
    """Return the least probability that so many independent pairs, all with one outcome, leave open.

    Clopper and Pearson 1934 (doi:10.1093/biomet/26.4.404) where all trials succeed: of an AUROC of 1, pairs
    of an ID and an OOD image that have no image in common are such trials.
    """
    return float(((1.0 - confidence) / 2) ** (1 / pairs))


def delong_interval(
    id_scores: ArrayLike, ood_scores: ArrayLike, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return (low, high) for the AUROC from the variance of its structural components.

    DeLong, DeLong and Clarke-Pearson 1988 (doi:10.2307/2531595), with the logit of the AUROC taken as normal
    so that the interval stays inside (0, 1). A perfect or perfectly wrong AUROC has no variance: its interval
    ends where `surely` says. Raises InputError for NaN, an empty side, or fewer than two images on a side.
    """
    inside, outside = valid_scores(id_scores, "ID"), valid_scores(ood_scores, "OOD")
    if min(inside.size, outside.size) < 2:
        raise InputError("an interval needs at least two images on each side")
    above, below = placements(outside, inside), 1.0 - placements(inside, outside)
    auroc = float(above.mean())
    variance = above.var(ddof=1) / above.size + below.var(ddof=1) / below.size
    if not 0.0 < auroc < 1.0:
        bound = surely(min(inside.size, outside.size), confidence)
        return (bound, 1.0) if auroc else (0.0, 1.0 - bound)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * np.sqrt(variance) / (auroc * (1.0 - auroc))
    logit = np.log(auroc) - np.log1p(-auroc)
    low, high = 1.0 / (1.0 + np.exp(-(logit - half))), 1.0 / (1.0 + np.exp(-(logit + half)))
    return float(low), float(high)
