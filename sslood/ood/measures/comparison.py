"""Whether one detector is better than another on the same images.

Scores of two detectors for one image are correlated, so two separate intervals say too little; the test
here uses the pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import NormalDist

import numpy as np

from sslood.core.errors import InputError
from sslood.ood.measures.intervals import surely, twice_below
from sslood.ood.measures.metrics import valid_scores


@dataclass(frozen=True)
class Scores:
    """Scores of one detector: ID images [N] and OOD images [M], in the order of the images."""

    id: np.ndarray
    ood: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A metric of the second detector less the first's, its interval, the p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def _paired(first: Scores, second: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return ID [2, N] and OOD [2, M] scores; InputError unless both detectors scored the same images."""
    sides = []
    for side in ("id", "ood"):
        a, b = (valid_scores(getattr(scores, side), side.upper()) for scores in (first, second))
        if a.size != b.size:
            raise InputError(
                f"the detectors scored {a.size} and {b.size} {side.upper()} images; compare them on the same"
            )
        sides.append(np.stack([a, b]))
    return sides[0], sides[1]


def delong_test(first: Scores, second: Scores, *, confidence: float = 0.95) -> Difference:
    """Compare two AUROC by the covariance of their structural components.

    DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595, eq. 5 to 9; two-sided, normal. Two detectors
    that rank all images alike have no variance and a p-value of 1. Where one ranks all pairs better by the
    same, there is no variance either: the p-value is that of a sign test over pairs without an image in
    common, and the interval leaves open what `surely` leaves. Raises InputError for NaN, an empty side,
    different images, or fewer than two images on a side.
    """
    inside, outside = _paired(first, second)
    if min(inside.shape[1], outside.shape[1]) < 2:
        raise InputError("a test needs at least two images on each side")
    above, below = (
        np.stack([twice_below(*two) for two in zip(rows, others, strict=True)])
        for rows, others in ((outside, inside), (inside, outside))
    )
    # the variance of a difference is that of the paired differences: whole numbers, so none is exactly none
    gap, other = above[1] - above[0], below[0] - below[1]
    value = float(gap.mean() / (2 * other.size))
    if np.ptp(gap) == np.ptp(other) == 0:
        if value == 0.0:
            return Difference(value, value, value, 1.0)
        pairs = min(gap.size, other.size)
        known = surely(pairs, confidence)  # the others may favour either detector by a whole pair
        return Difference(value, known * (value + 1) - 1, known * (value - 1) + 1, 2.0 ** (1 - pairs))
    shares = gap / (2 * other.size), other / (2 * gap.size)
    deviation = np.sqrt(sum(share.var(ddof=1) / share.size for share in shares))
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation
    p_value = erfc(abs(value) / deviation / sqrt(2.0))  # both tails, precise far out too
    return Difference(value, float(value - half), float(value + half), float(p_value))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values adjusted for their number, in their order.

    Holm 1979: A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    The probability that even one true hypothesis falls below a level is at most that level.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
