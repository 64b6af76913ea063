"""Tests whether one batch of pictures is like the calibration images, from its flags and from its scores.

Both know that there are only n calibration images: a batch is compared with these, not with the rate alpha or
with uniform p-values. Otherwise a large batch would find in every detector the error of its own calibration.
They hold for one batch. Over many batches some p-value is small, and that is what the martingale is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve
from scipy.stats import betabinom, ks_2samp

from sslood.ood.measures.conformal import finite_scores

_EXACT = 10_000  # scores on either side up to which the distribution of Kolmogorov and Smirnov is exact


@dataclass(frozen=True)
class Group:
    """Pictures of a batch that are judged by one threshold.

    calibration: number of images that set it; allowed: that of the places among these and one more image that
    are above it, floor((n + 1) alpha). images: of the batch; flagged: of these called OOD.
    """

    calibration: int
    allowed: int
    images: int
    flagged: int


def flags_p_value(groups: Sequence[Group]) -> float:
    """Return the probability that so many pictures or more are flagged in a batch that is like calibration.

    One-sided. Given n calibration images the rate beyond a threshold is Beta(l, n + 1 - l), l = `allowed`, so
    the flags among m pictures are beta-binomial; as n grows that becomes the binomial test. Those of several
    thresholds, one per class, are independent given which pictures each judges, and are added. Ties of scores
    only lower the flags, so the p-value is then too large.
    """
    used = [group for group in groups if group.images]
    flagged = sum(group.flagged for group in used)
    if flagged == 0:
        return 1.0
    total, *others = [_law(group) for group in used]
    for law in others:
        total = fftconvolve(total, law)
    return float(np.clip(total[flagged:].sum(), 0.0, 1.0))


def _law(group: Group) -> np.ndarray:
    """Return the probability of 0, 1, ..., all pictures of a group flagged."""
    law = betabinom(group.images, group.allowed, group.calibration + 1 - group.allowed)
    return np.asarray(law.pmf(np.arange(group.images + 1)))


def scores_p_value(calibration: np.ndarray, scores: np.ndarray) -> float:
    """Return the two-sided p-value of Kolmogorov and Smirnov's test of the batch's scores and calibration's.

    A p-value of `score` is a decreasing function of the score, so this compares the p-values too. Raises
    InputError for scores that are not finite.
    """
    own, other = finite_scores(calibration, "calibration"), finite_scores(scores, "batch")
    exact = max(len(own), len(other)) <= _EXACT
    return float(ks_2samp(own, other, method="auto" if exact else "asymp").pvalue)
