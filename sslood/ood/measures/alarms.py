"""What a detector decides at a fixed rate of false alarms: the share of a set that it flags, class by class.

An image is flagged, that is called OOD, if its score is above a conformal threshold. AUROC looks at all
thresholds; whoever uses a detector has one, and it comes from ID images before any test image is seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.ood.measures.conformal import conformal_threshold, images_needed
from sslood.ood.measures.metrics import valid_scores

VALIDATION, HALVES = "ID validation", "halves of ID test"


@dataclass(frozen=True)
class Rule:
    """A way to flag images at the rate `alpha`.

    thresholds: one, or one of each half of the ID test images. half: bool [N], which of these images made the
    second threshold; None where ID validation made the only one.
    """

    alpha: float
    thresholds: tuple[float, ...]
    half: np.ndarray | None = None

    @property
    def source(self) -> str:
        """The images that made the threshold, in words."""
        return VALIDATION if self.half is None else HALVES

    def of_id(self, scores: np.ndarray) -> np.ndarray:
        """Return which ID test images [N] are flagged: bool [N], none by a threshold that it helped to make.

        Raises InputError for another number of images than the rule was made from.
        """
        if self.half is None:
            return scores > self.thresholds[0]
        if len(scores) != len(self.half):
            raise InputError(f"the rule was made from {len(self.half)} ID test images, found {len(scores)}")
        return scores > np.where(self.half, self.thresholds[0], self.thresholds[1])

    def share(self, scores: np.ndarray) -> float:
        """Return the share of other images [N] that is flagged; the mean over the thresholds."""
        return float(np.mean([(scores > threshold).mean() for threshold in self.thresholds]))


def held_out_rule(calibration: ArrayLike, alpha: float) -> Rule | None:
    """Return the rule of `deploy`: the conformal threshold from scores of ID validation images.

    None for fewer than `images_needed(alpha)` of them; InputError as `conformal_threshold`.
    """
    return _made(np.size(calibration), alpha, lambda: (conformal_threshold(calibration, alpha).value,))


def halved_rule(scores: ArrayLike, alpha: float) -> Rule | None:
    """Return the rule where model or detector was fitted on ID validation, from scores of ID test images [N].

    Each half of the images, drawn at random but always alike, is judged by the threshold of the other. None
    for fewer than `images_needed(alpha)` images in a half; InputError as `conformal_threshold`.
    """
    values = valid_scores(scores, "ID")
    half = numpy_stream(0, "halves").permutation(values.size) % 2 == 1
    parts = values[~half], values[half]
    # an image of the second half is judged by the first threshold
    found = _made(
        min(map(len, parts)), alpha, lambda: tuple(conformal_threshold(part, alpha).value for part in parts)
    )
    return found and Rule(found.alpha, found.thresholds, half)


def _made(count: int, alpha: float, thresholds: Callable[[], tuple[float, ...]]) -> Rule | None:
    return None if count < images_needed(alpha) else Rule(alpha, thresholds())


@dataclass(frozen=True)
class ByClass:
    """False alarms by class: images and shares [K] (NaN without images), and how unequal the shares are.

    spread: their standard deviation (n - 1; NaN for one class). p_value: of equal rates in all classes.
    """

    images: np.ndarray
    shares: np.ndarray
    spread: float
    p_value: float


def by_class(flagged: ArrayLike, labels: ArrayLike, classes: int) -> ByClass:
    """Return the share of each class that is flagged: flagged bool [N], labels int [N], -1 unknown.

    The p-value is that of Pearson's chi-squared test of homogeneity, an approximation that is poor where a
    class expects fewer than about five alarms; NaN if nothing or everything is flagged, or there is one
    class. Raises InputError for lengths that differ, or a label that is no class.
    """
    flags, places = np.asarray(flagged, dtype=bool), np.asarray(labels)
    if flags.shape != places.shape or flags.ndim != 1:
        raise InputError(f"labels have shape {places.shape}, expected one for each of {flags.shape} images")
    if places.size and places.max() >= classes:
        raise InputError(f"label {places.max()} is none of {classes} classes, counted from 0")
    flags, places = flags[places >= 0], places[places >= 0]
    images = np.bincount(places, minlength=classes)
    alarms = np.bincount(places[flags], minlength=classes)
    there = images > 0
    shares = np.full(classes, np.nan)
    shares[there] = alarms[there] / images[there]
    count, spread, p_value = int(there.sum()), np.nan, np.nan
    if count > 1:
        spread = float(shares[there].std(ddof=1))
        rate = alarms.sum() / images.sum()
        if 0.0 < rate < 1.0:
            excess = (alarms - images * rate)[there] ** 2 / (images[there] * rate * (1.0 - rate))
            p_value = float(chi2.sf(excess.sum(), count - 1))
    return ByClass(images, shares, spread, p_value)
