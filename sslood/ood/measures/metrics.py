"""How well scores separate in-distribution (ID) images from out-of-distribution (OOD) ones.

A score is larger for what looks more OOD. Every number is a fraction, computed in float64 from one
sorting of all scores. Equal scores share one threshold, so no metric depends on their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sslood.core.errors import InputError

METRICS = (
    "auroc",
    "fpr95_id",
    "fpr95_ood",
    "aupr_in",
    "aupr_out",
    "aupr_in_balanced",
    "aupr_out_balanced",
    "detection_error",
)


@dataclass(frozen=True)
class Counts:
    """Images at or below each distinct score, in ascending order of the score: int64 [T] each."""

    id_le: np.ndarray
    ood_le: np.ndarray

    @property
    def n_id(self) -> int:
        return int(self.id_le[-1])

    @property
    def n_ood(self) -> int:
        return int(self.ood_le[-1])


def valid_scores(scores: ArrayLike, side: str) -> np.ndarray:
    """Return `scores` as float64 [N]; InputError if there are none, or some are NaN. ±inf is accepted."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(
            f"{side} scores must be one number per image, found an array of shape {scores.shape}"
        )
    if scores.size == 0:
        raise InputError(f"there are no {side} scores: a metric needs at least one image on each side")
    bad = int(np.isnan(scores).sum())
    if bad:
        raise InputError(f"{bad} of {scores.size} {side} scores are NaN; find out why before comparing them")
    return scores


def nan_among(scores: Mapping[str, np.ndarray]) -> str:
    """Return which set (name -> scores [N]) has scores that are NaN, and how many; "" if none has."""
    for name, values in scores.items():
        if bad := int(np.isnan(values).sum()):
            return f"{bad} of {len(values)} scores of {name!r} are NaN, which no metric counts"
    return ""


def threshold_counts(id_scores: ArrayLike, ood_scores: ArrayLike) -> Counts:
    """Count the images at or below each distinct score. InputError for NaN and empty sides."""
    inside, outside = valid_scores(id_scores, "ID"), valid_scores(ood_scores, "OOD")
    scores = np.concatenate([np.sort(inside), np.sort(outside)])
    # two ascending runs: the stable sort merges them in linear time
    order = np.argsort(scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(scores[1:] != scores[:-1])
    last = np.append(last, scores.size - 1)
    ood_le = np.cumsum(order >= inside.size)[last]
    return Counts(id_le=last + 1 - ood_le, ood_le=ood_le)


def ood_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float | int]:
    """Return every metric of this project for two sets of scores (larger = more OOD).

    id_scores [N], ood_scores [M]: any real dtype; ±inf is accepted. Keys:

    - auroc: P(OOD above ID), ties half.
    - fpr95_id: share of OOD accepted at the lowest threshold that accepts at least 95 % of ID.
    - fpr95_ood: share of ID rejected at the highest threshold that catches at least 95 % of OOD.
    - aupr_in, aupr_out: average precision with ID, with OOD as the positive side, at these sizes.
    - aupr_in_balanced, aupr_out_balanced: the same with both sides weighing one half.
    - detection_error: the least 0.5 * missed OOD + 0.5 * rejected ID over all thresholds.
    - n_id, n_ood: the sizes.

    A constant score gives auroc 0.5 and 1.0 for both FPR. Raises InputError for NaN or an empty side.
    """
    counts = threshold_counts(id_scores, ood_scores)
    n_id, n_ood = counts.n_id, counts.n_ood
    id_new, ood_new = np.diff(counts.id_le, prepend=0), np.diff(counts.ood_le, prepend=0)
    id_ge, ood_ge = n_id - counts.id_le + id_new, n_ood - counts.ood_le + ood_new
    return {
        "auroc": _auroc(counts, id_new, ood_new),
        "fpr95_id": _fpr95_id(counts),
        "fpr95_ood": _fpr95_ood(id_ge, ood_ge),
        "aupr_in": _average_precision(id_new, counts.id_le, counts.ood_le, 1.0),
        "aupr_out": _average_precision(ood_new, ood_ge, id_ge, 1.0),
        "aupr_in_balanced": _average_precision(id_new, counts.id_le, counts.ood_le, n_id / n_ood),
        "aupr_out_balanced": _average_precision(ood_new, ood_ge, id_ge, n_ood / n_id),
        "detection_error": _detection_error(id_ge, ood_ge),
        "n_id": n_id,
        "n_ood": n_ood,
    }


def _auroc(counts: Counts, id_new: np.ndarray, ood_new: np.ndarray) -> float:
    # twice the Mann-Whitney count, a whole number: below + at or below = 2 below + ties
    twice = int(ood_new @ (2 * counts.id_le - id_new))
    return twice / (2 * counts.n_id * counts.n_ood)


def _fpr95_id(counts: Counts) -> float:
    # 20 * count >= 19 * n is "at least 95 %" without rounding
    first = np.searchsorted(20 * counts.id_le, 19 * counts.n_id)
    return int(counts.ood_le[first]) / counts.n_ood


def _fpr95_ood(id_ge: np.ndarray, ood_ge: np.ndarray) -> float:
    last = np.searchsorted(-20 * ood_ge, -19 * int(ood_ge[0]), side="right") - 1
    return int(id_ge[last]) / int(id_ge[0])


def _average_precision(new: np.ndarray, hits: np.ndarray, alarms: np.ndarray, weight: float) -> float:
    """Mean over the positives of the precision at their threshold; alarms count `weight` each."""
    some = np.flatnonzero(new)
    new, hits, alarms = new[some], hits[some], alarms[some]
    # not a BLAS product, whose order of summation depends on the processor
    return float((new * (hits / (hits + weight * alarms))).sum() / new.sum())


def _detection_error(id_ge: np.ndarray, ood_ge: np.ndarray) -> float:
    missed, rejected = 1.0 - ood_ge / ood_ge[0], id_ge / id_ge[0]
    return float(min(0.5, (0.5 * missed + 0.5 * rejected).min()))
