"""Probes of frozen features without torch: weighted nearest neighbours, a linear classifier, calibration."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from sslood.core.errors import InputError
from sslood.core.rows import unit_rows
from sslood.core.seeding import numpy_stream
from sslood.core.splits import stratified_choice
from sslood.core.threads import scipy_on_one_thread

DRAWS = 5  # of a few labels: one draw of a dozen images says little
CHUNK = 1024  # queries at a time: bounds the memory of the similarity matrix


def knn_scores(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    *,
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, np.ndarray]:
    """Return k -> class scores [Q, classes] of weighted nearest neighbours (Wu et al. 2018, section 3.4).

    Features [N, D] and [Q, D] are L2-normalised; each of the k neighbours of largest cosine s votes
    for its class with exp((s - s_max) / temperature). All k of `ks` are served by one search.
    InputError if a k is larger than the bank or the temperature not positive.
    """
    if max(ks) > len(bank) or min(ks) < 1:
        raise InputError(
            f"knn.k is {list(ks)}, but there are {len(bank)} training images; use 1 to {len(bank)}"
        )
    if not temperature > 0:
        raise InputError(f"knn.temperature is {temperature}; use a positive number")
    bank, queries = unit_rows(bank.astype(np.float64)), unit_rows(queries.astype(np.float64))
    scores = {k: np.empty((len(queries), classes)) for k in ks}
    one_hot = np.eye(classes)[bank_labels]
    for start in range(0, len(queries), CHUNK):
        rows = slice(start, start + CHUNK)
        nearest, cosines = _nearest(queries[rows] @ bank.T, max(ks))
        weights = np.exp((cosines - cosines[:, :1]) / temperature)
        for k in ks:
            scores[k][rows] = np.einsum("qk,qkc->qc", weights[:, :k], one_hot[nearest[:, :k]])
    return scores


def _nearest(similarity: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (positions, values) of the k largest per row, largest first, ties by position."""
    part = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(similarity, part, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(part, order, 1), np.take_along_axis(values, order, 1)


def fit_linear(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    l2: float,
    start: np.ndarray | None = None,
    iterations: int = 1000,
) -> np.ndarray:
    """Return the weights [D + 1, classes] (last row: bias) of multinomial logistic regression.

    Minimises mean cross-entropy + l2 / 2 * |W|^2, the bias free, by L-BFGS in float64 from `start` (a
    warm start) or zero. `features` [N, D] should be standardised. InputError for a negative l2.
    """
    if not l2 >= 0:
        raise InputError(f"linear.l2 is {l2}; it must not be negative")
    features = features.astype(np.float64)
    n, width = features.shape
    target = np.ascontiguousarray(np.eye(classes)[labels].T)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(width + 1, classes)
        # a row for each class: numpy's sums over the classes are ten times as fast so
        logits = weights[:-1].T @ features.T + weights[-1][:, None]
        logits -= logits.max(0)
        own = np.vdot(target, logits)
        error = np.exp(logits, out=logits)
        total = error.sum(0)
        error /= total
        error -= target
        error /= n
        slope = np.vstack(((error @ features).T + l2 * weights[:-1], error.sum(1)))
        return (np.log(total).sum() - own) / n + 0.5 * l2 * np.square(weights[:-1]).sum(), slope.ravel()

    first = np.zeros((width + 1) * classes) if start is None else start.ravel()
    limits = {"maxiter": iterations, "ftol": 1e-10, "gtol": 1e-6}
    with scipy_on_one_thread():
        found = minimize(objective, first, jac=True, method="L-BFGS-B", options=limits)
    return found.x.reshape(width + 1, classes)


def linear_logits(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return logits [N, classes] of `fit_linear`'s weights."""
    return features @ weights[:-1] + weights[-1]


def top_accuracy(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Return the share of rows whose label is among the k largest scores; ties go to the smaller index."""
    own = np.take_along_axis(scores, labels[:, None], 1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return float((before.sum(1) < k).mean())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Return sum over bins of share * |accuracy - confidence|, equal-width bins (Guo et al. 2017, eq. 3)."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    # bins are (a, b], so a confidence of exactly 1 falls into the last one
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def probe_model(
    sets: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    classes: int,
    ks: Sequence[int],
    temperature: float,
    l2s: Sequence[float],
) -> dict[str, dict[str, float]]:
    """Return {"knn": …, "linear": …} from `sets`: split -> (features, labels).

    k and l2 are chosen by accuracy on validation (the first of `ks`, the largest l2 win a tie); the
    accuracies are those on test.
    """
    bank, labels = sets["train"]
    queries = np.concatenate((sets["validation"][0], sets["test"][0]))
    found = knn_scores(bank, labels, queries, classes=classes, ks=ks, temperature=temperature)
    cut = len(sets["validation"][0])
    k = max(ks, key=lambda k: top_accuracy(found[k][:cut], sets["validation"][1]))
    knn = {
        "k": k,
        "temperature": temperature,
        "validation_accuracy": top_accuracy(found[k][:cut], sets["validation"][1]),
    }
    knn |= accuracies(found[k][cut:], sets["test"][1])
    return {"knn": knn, "linear": probe_linear(sets, classes, l2s)}


def probe_linear(
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: int, l2s: Sequence[float]
) -> dict[str, float]:
    """Return the record of a linear classifier on standardised features; l2 is chosen on validation."""
    mean, std = sets["train"][0].mean(0, dtype=np.float64), sets["train"][0].std(0, dtype=np.float64)
    # a feature without spread is shifted only
    scaled = {split: ((x - mean) / np.where(std > 1e-8, std, 1.0), y) for split, (x, y) in sets.items()}
    best, weights = None, None
    for l2 in sorted(l2s, reverse=True):  # from stiff to loose, each the start of the next
        weights = fit_linear(*scaled["train"], classes=classes, l2=l2, start=weights)
        right = top_accuracy(linear_logits(scaled["validation"][0], weights), scaled["validation"][1])
        if best is None or right > best[0]:
            best = right, l2, weights
    logits = linear_logits(scaled["test"][0], best[2])
    return {"l2": best[1], "validation_accuracy": best[0], **classified(logits, sets["test"][1])}


def probe_few_labels(
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
    share: float,
    *,
    classes: int,
    l2s: Sequence[float],
    seed: int,
) -> dict[str, float]:
    """Return the record of a linear probe that knows `share` of the train labels, at least one a class.

    `sets` as for `probe_model`. Means over DRAWS draws, each class in proportion, from the stream ("labels",
    share, draw). InputError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"shares is {share}; a share of the labels lies above 0 and is at most 1")
    features, labels = sets["train"]
    count = max(round(share * len(labels)), len(np.unique(labels)))
    records = []
    for draw in range(DRAWS):
        rows = stratified_choice(labels, count, numpy_stream(seed, "labels", str(share), draw))
        records.append(probe_linear({**sets, "train": (features[rows], labels[rows])}, classes, l2s))
    names = [name for name in records[0] if name != "l2"]
    means = {name: float(np.mean([record[name] for record in records])) for name in names}
    return {"labels": count, "draws": DRAWS, **means}


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracy, and accuracy_top5 where there are more than five classes."""
    found = {"accuracy": top_accuracy(scores, labels)}
    return found | ({"accuracy_top5": top_accuracy(scores, labels, 5)} if scores.shape[1] > 5 else {})


def classified(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the accuracies and the ece of logits [N, K]."""
    return {**accuracies(logits, labels), "ece": expected_calibration_error(logits, labels)}
