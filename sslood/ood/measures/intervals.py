"""Intervals for metrics over the images of one run. Spread over seeds is another thing: never mix them."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.ood.measures.metrics import METRICS, checked, ood_metrics


def placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each score the share of `others` below it, ties half: float64 [N]."""
    others = np.sort(others)
    below = np.searchsorted(others, scores, side="left")
    return (below + np.searchsorted(others, scores, side="right")) / (2 * others.size)


def delong_interval(id_scores, ood_scores, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return (low, high) for the AUROC from the variance of its structural components.

    DeLong, DeLong and Clarke-Pearson 1988, with the logit of the AUROC taken as normal so that the
    interval stays inside (0, 1). A perfect or perfectly wrong AUROC has no variance: the interval is
    that point, and only a bound from more images could widen it. Raises InputError for NaN, an empty
    side, or fewer than two images on a side.
    """
    id_scores, ood_scores = checked(id_scores, "ID"), checked(ood_scores, "OOD")
    if min(id_scores.size, ood_scores.size) < 2:
        raise InputError("an interval needs at least two images on each side")
    above, below = placements(ood_scores, id_scores), 1.0 - placements(id_scores, ood_scores)
    auroc = float(above.mean())
    variance = above.var(ddof=1) / above.size + below.var(ddof=1) / below.size
    if not 0.0 < auroc < 1.0:
        return auroc, auroc
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * np.sqrt(variance) / (auroc * (1.0 - auroc))
    logit = np.log(auroc) - np.log1p(-auroc)
    low, high = 1.0 / (1.0 + np.exp(-(logit - half))), 1.0 / (1.0 + np.exp(-(logit + half)))
    return float(low), float(high)


def bootstrap_interval(
    id_scores,
    ood_scores,
    *,
    seed: int,
    metrics: Sequence[str] = METRICS,
    repeats: int = 1000,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return metric -> (low, high): percentiles over images drawn again with replacement, each side apart.

    Raises InputError for NaN, an empty side, or fewer than one repeat.
    """
    id_scores, ood_scores = checked(id_scores, "ID"), checked(ood_scores, "OOD")
    if repeats < 1:
        raise InputError(f"a bootstrap needs at least one repeat, found {repeats}")
    random = numpy_stream(seed, "bootstrap")
    rows = []
    for _ in range(repeats):
        again = ood_metrics(
            id_scores[random.integers(id_scores.size, size=id_scores.size)],
            ood_scores[random.integers(ood_scores.size, size=ood_scores.size)],
        )
        rows.append([again[name] for name in metrics])
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(np.array(rows), [tail, 1.0 - tail], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(metrics, low, high, strict=True)}
