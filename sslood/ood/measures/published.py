"""Metrics as published systems compute them, for comparison with their tables alone.

Each carries the name of its rule; none of them stands in this project's results. Larger score = more OOD.
"""

import numpy as np

from sslood.ood.measures.metrics import threshold_counts


def fpr95_nearest_point(id_scores, ood_scores) -> float:
    """Return the share of OOD accepted at the threshold whose share of ID accepted is *nearest* to 95 %.

    As energy_ood, Outlier Exposure and CIDER do. Of two equally near shares the higher counts; of
    thresholds with one share the most lenient, but nothing beyond the first that accepts all of ID.
    With few distinct scores it may stand far from 95 %, and below it.
    """
    counts = threshold_counts(id_scores, ood_scores)
    id_le = counts.id_le[: np.searchsorted(counts.id_le, counts.n_id) + 1]
    # twenty times the distance is whole: nothing is decided by rounding
    distance = np.abs(20 * id_le - 19 * counts.n_id)
    place = distance.size - 1 - int(np.argmin(distance[::-1]))
    return int(counts.ood_le[place]) / counts.n_ood


def aupr_rate_based(id_scores, ood_scores) -> dict[str, float]:
    """Return aupr_in and aupr_out with precision TPR / (TPR + FPR), as ODIN and the leave-out ensemble do.

    Precision is that of two sides of equal weight, whatever their sizes; each step of recall counts with
    the precision at its *lower* end, and what is below the first threshold with the precision there.
    All distinct scores are thresholds.
    """
    counts = threshold_counts(id_scores, ood_scores)
    accepted, let_in = counts.id_le / counts.n_id, counts.ood_le / counts.n_ood
    caught = 1.0 - np.append(0.0, let_in[:-1])
    rejected = 1.0 - np.append(0.0, accepted[:-1])
    return {
        "aupr_in": _lower_end(accepted, let_in),
        "aupr_out": _lower_end(caught[::-1], rejected[::-1]),
    }


def _lower_end(recall: np.ndarray, alarms: np.ndarray) -> float:
    """Return the area from ascending recall [T] and false-positive rates [T]."""
    precision = recall / (recall + alarms)
    return float(np.diff(recall) @ precision[:-1] + recall[0] * precision[0])


def aupr_trapezoid(id_scores, ood_scores) -> dict[str, float]:
    """Return aupr_in and aupr_out by the trapezoid rule over the precision-recall points, as OpenOOD does.

    Starts at recall 0 with precision 1, so it is above average precision where scores tie.
    """
    counts = threshold_counts(id_scores, ood_scores)
    ood_ge = counts.n_ood - np.append(0, counts.ood_le[:-1])
    id_ge = counts.n_id - np.append(0, counts.id_le[:-1])
    return {
        "aupr_in": _trapezoid(counts.id_le, counts.ood_le),
        "aupr_out": _trapezoid(ood_ge[::-1], id_ge[::-1]),
    }


def _trapezoid(hits: np.ndarray, alarms: np.ndarray) -> float:
    recall = np.append(0.0, hits / hits[-1])
    precision = np.append(1.0, hits / (hits + alarms))
    return float(np.trapezoid(precision, recall))
