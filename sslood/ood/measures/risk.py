"""Whether a score finds the classifier's mistakes: selective classification and failure detection.

A score is larger where the prediction deserves less trust; images are accepted from the lowest on.
"""

import numpy as np
from numpy.typing import ArrayLike

from sslood.core.errors import InputError
from sslood.ood.measures.metrics import ood_metrics, valid_scores


def _sorted(scores: ArrayLike, wrong: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return scores ascending and `wrong` in that order as float64; InputError if they do not fit."""
    values, mistakes = valid_scores(scores, "test"), np.asarray(wrong)
    if mistakes.shape != values.shape or mistakes.dtype != bool:
        raise InputError(
            f"`wrong` must be one bool per image, found {mistakes.dtype} of shape {mistakes.shape} "
            f"for {values.size} scores"
        )
    order = np.argsort(values, kind="stable")
    return values[order], mistakes[order].astype(np.float64)


def risk_coverage(scores: ArrayLike, wrong: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return (coverage, risk), float64 [N] each: share accepted, share of mistakes among the accepted.

    scores [N], wrong bool [N]: whether the predicted class is false. Entry i accepts i + 1 images.
    Within equal scores the risk is its mean over all orders, so it does not depend on theirs.
    Raises InputError for NaN, no images, or lengths that differ.
    """
    values, mistaken = _sorted(scores, wrong)
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    group = np.repeat(np.arange(first.size), np.diff(np.append(first, values.size)))
    mistakes = np.cumsum((np.bincount(group, mistaken) / np.bincount(group))[group])
    accepted = np.arange(1, values.size + 1)
    return accepted / values.size, mistakes / accepted


def aurc(scores: ArrayLike, wrong: ArrayLike) -> dict[str, float]:
    """Return areas under the risk-coverage curve, 0 is best:

    - aurc: mean risk over all coverages (Geifman and El-Yaniv 2017, arXiv:1705.08500).
    - eaurc: aurc less that of a score that accepts every right prediction first (Geifman et al. 2019,
      arXiv:1805.08206).
    - augrc: mean over coverages of accepted mistakes as a share of all images (Traub et al. 2024,
      arXiv:2407.01032).
    - error: share of mistakes among all images, what a useless score has as aurc.
    """
    coverage, risk = risk_coverage(scores, wrong)
    best = risk_coverage(np.asarray(wrong, dtype=np.float64), wrong)[1].mean()
    return {
        "aurc": float(risk.mean()),
        "eaurc": float(risk.mean() - best),
        "augrc": float((risk * coverage).mean()),
        "error": float(risk[-1]),
    }


def aurc_with_ood(
    id_scores: ArrayLike, wrong: ArrayLike, ood_scores: ArrayLike, *, share: float = 0.5
) -> dict[str, float]:
    """Return areas under the risk-coverage curve of ID images mixed with OOD images, 0 is best.

    One score has to keep back two things, mistakes and OOD images: accepting either is a failure (selective
    classification with OOD data: Xia and Bouganis 2022, arXiv:2207.07506; Jaeger et al. 2023,
    arXiv:2211.15259). id_scores [N], wrong bool [N], ood_scores [M]. All OOD images together weigh `share` of
    the whole, whatever their number; that choice, a half, is ours, and makes sets of different sizes
    comparable. Within equal scores every image weighs the same. Keys: aurc_ood, the mean risk over all
    coverages, one for each image; eaurc_ood, that less the ideal order's, all right predictions first. With
    share M / (N + M) it is `aurc` of all images. With few OOD images a step of coverage is wide: of 20
    against 1,000 ID images both are off by some 0.005, of one by 0.1. Raises InputError for NaN, no images,
    or a share outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"the share of OOD images must be above 0 and below 1, found {share}")
    inside, outside = valid_scores(id_scores, "ID"), valid_scores(ood_scores, "OOD")
    _sorted(inside, wrong)  # refuses what does not fit
    scores = np.concatenate([inside, outside])
    failures = np.concatenate([np.asarray(wrong), np.ones(outside.size, bool)])
    sizes = inside.size, outside.size
    weights = np.repeat([(1.0 - share) / inside.size, share / outside.size], sizes)
    found, ideal = (_weighted_aurc(order, failures, weights) for order in (scores, failures.astype(float)))
    return {"aurc_ood": found, "eaurc_ood": found - ideal}


def _weighted_aurc(scores: np.ndarray, failures: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean risk over coverages of images that weigh differently, [N] each."""
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    weight, failed = np.bincount(group, weights), np.bincount(group, weights * failures)
    step, failure = (np.repeat(total / counts, counts) for total in (weight, failed))
    return float((step * (np.cumsum(failure) / np.cumsum(step))).sum() / weight.sum())


def misclassification_metrics(scores: ArrayLike, wrong: ArrayLike) -> dict[str, float | int]:
    """Return how well a score separates mistakes from right predictions (Hendrycks and Gimpel 2017,
    arXiv:1610.02136).

    Keys: auroc; aupr_success and aupr_error, average precision with right and with wrong predictions as
    the positive side; fpr95, share of mistakes accepted where 95 % of right predictions are; n_right,
    n_wrong. Raises InputError for NaN, or if all predictions are right, or all wrong.
    """
    values, mistaken = _sorted(scores, wrong)
    count = int(mistaken.sum())
    if count in (0, values.size):
        raise InputError(
            f"{count} of {values.size} predictions are wrong: to detect mistakes there must be some of each"
        )
    found = ood_metrics(values[mistaken == 0], values[mistaken == 1])
    names = {"auroc": "auroc", "aupr_in": "aupr_success", "aupr_out": "aupr_error", "fpr95_id": "fpr95"}
    names |= {"n_id": "n_right", "n_ood": "n_wrong"}
    return {ours: found[theirs] for theirs, ours in names.items()}


def own_mistakes(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return how well a classifier's confidence (MSP) finds its mistakes: logits [N, K], labels int64 [N].

    Keys: aurc, eaurc, augrc; and, unless all predictions are right or all wrong, mistakes_auroc and
    mistakes_fpr95, the share of mistakes accepted where 95 % of right predictions are.
    """
    logits = np.asarray(logits, dtype=np.float64)
    predicted = logits.argmax(axis=1)
    others = np.where(np.arange(logits.shape[1]) == predicted[:, None], -np.inf, logits)
    gap = logits.max(axis=1) - np.logaddexp.reduce(others, axis=1)
    scores = -np.logaddexp(0.0, gap)  # log(1 - the largest probability), which never ties at 1
    wrong = predicted != labels
    found = {key: value for key, value in aurc(scores, wrong).items() if key != "error"}
    if 0 < wrong.sum() < wrong.size:
        metrics = misclassification_metrics(scores, wrong)
        found |= {f"mistakes_{key}": metrics[key] for key in ("auroc", "fpr95")}
    return found
