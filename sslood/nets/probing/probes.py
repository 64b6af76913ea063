"""Probes of frozen features without torch: weighted nearest neighbours, a linear classifier, calibration.

The curves of a training show such accuracies too (`nets/training/watch.py`), on the device and without
settings. They share no code with these: what a training imports runs it again when it changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from sslood.core.calibration import expected_calibration_error as expected_calibration_error
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.rounding import decimal
from sslood.core.rows import unit_rows
from sslood.core.seeding import numpy_stream
from sslood.core.settings import Limits, Settings, above, at_least
from sslood.core.splits import stratified_choice
from sslood.nets.probing.linear import fit_linear, linear_logits

DRAWS = 5  # of a few labels: a single draw of a dozen images says little
CHUNK = 1024  # queries at a time: bounds the memory of the similarity matrix
# adding and subtracting it rounds numbers in [-1, 1] to multiples of 2^-40
ROUND = 3 * 2.0**11

Splits = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class KNNProbeSettings(Settings):
    """The section `probe.knn` of params.yaml."""

    k: Annotated[tuple[int, ...], at_least(1), "neighbours; the best on ID validation is taken"]
    temperature: Annotated[float, above(0), "of the votes exp(cosine / temperature)"]

    def _check(self) -> None:
        if not self.k:
            raise InputError("k must list at least one number of neighbours")


@dataclass(frozen=True)
class LinearProbeSettings(Settings):
    """The section `probe.linear` of params.yaml."""

    l2: Annotated[tuple[float, ...], at_least(0), "weight penalties; the best on ID validation is taken"]
    shares: Annotated[
        tuple[float, ...],
        Limits(0, 1, low_included=False),
        "shares of the ID train labels that a linear probe learns from, besides all",
    ] = ()

    def _check(self) -> None:
        if not self.l2:
            raise InputError("l2 must list at least one penalty")


def read_splits(path: str, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return split -> (features, labels) of a set with training images, from an embeddings file."""
    sets = {}
    for split in ("train", "validation", "test"):
        keys = [f"{name}.{split}.{part}" for part in ("features", "labels")]
        tensors, _ = load_tensors(path, kind="embeddings", only=keys)
        sets[split] = tensors[keys[0]], tensors[keys[1]]
    return sets


def at_most(sets: Splits, images: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the splits with so many images of train at most, each class in proportion; 0 = all.

    Drawn from the stream ("probe", images). A class may go without.
    """
    features, labels = sets["train"]
    if not 0 < images < len(labels):
        return dict(sets)
    rows = stratified_choice(labels, images, numpy_stream(seed, "probe", images))
    return {**sets, "train": (features[rows], labels[rows])}


def knn_scores(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    *,
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, np.ndarray]:
    """Return k -> class scores [Q, classes] of weighted nearest neighbours.

    Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    arXiv:1805.01978, section 3.4. Features [N, D] and [Q, D] are L2-normalised; each of the k neighbours of
    largest cosine s votes for its class with exp((s - s_max) / temperature). All k of `ks` are served by one
    search. InputError if a k is larger than the bank or the temperature not positive.
    """
    if max(ks) > len(bank) or min(ks) < 1:
        raise InputError(
            f"knn.k is {list(ks)}, but there are {len(bank)} training images; use 1 to {len(bank)}"
        )
    if not temperature > 0:
        raise InputError(f"knn.temperature must be above 0, found {temperature}")
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
    """Return (positions, values) of the k largest per row, largest first, ties by position.

    `similarity` is overwritten: rounded, so that equal images are equally near on every CPU.
    """
    similarity += ROUND
    similarity -= ROUND
    part = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    lowest = np.take_along_axis(similarity, part, 1).min(1, keepdims=True)
    # which of several equal ones argpartition takes depends on the CPU
    for row in np.flatnonzero((similarity >= lowest).sum(1) > k):
        part[row] = np.argsort(-similarity[row], kind="stable")[:k]
    part.sort(axis=1)
    values = np.take_along_axis(similarity, part, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(part, order, 1), np.take_along_axis(values, order, 1)


def top_accuracy(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Return the share of rows whose label is among the k largest scores; ties go to the smaller index.

    Raises InputError for scores that are not finite: no number is above NaN, so it would be right always.
    """
    if bad := int((~np.isfinite(scores)).any(1).sum()):
        raise InputError(
            f"the class scores of {bad} of {len(scores)} images are NaN or infinite, so they have no "
            "accuracy; look at the weights of the model, and at its mean and std"
        )
    own = np.take_along_axis(scores, labels[:, None], 1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return float((before.sum(1) < k).mean())


def probe_knn(sets: Splits, settings: KNNProbeSettings, *, classes: int) -> dict[str, Any]:
    """Return the record of nearest neighbours in train; `sets`: split -> (features, labels).

    k is chosen by accuracy on validation (the first of equals) among those that train has images for; the
    accuracies are those on test.
    """
    bank, labels = sets["train"]
    queries = np.concatenate((sets["validation"][0], sets["test"][0]))
    ks = [k for k in settings.k if k <= len(bank)]
    scores = knn_scores(bank, labels, queries, classes=classes, ks=ks, temperature=settings.temperature)
    cut, truth = len(sets["validation"][0]), sets["validation"][1]
    k = max(ks, key=lambda k: top_accuracy(scores[k][:cut], truth))
    record = {
        "k": k,
        "temperature": settings.temperature,
        "validation_accuracy": top_accuracy(scores[k][:cut], truth),
    }
    return rounded(record | accuracies(scores[k][cut:], sets["test"][1]))


def probe_linear(sets: Splits, l2s: Sequence[float], *, classes: int) -> dict[str, float]:
    """Return the record of a linear classifier on standardised features; `sets` as for `probe_knn`.

    l2 is chosen by accuracy on validation (the largest of equals), the accuracies are those on test.
    """
    mean, std = sets["train"][0].mean(0, dtype=np.float64), sets["train"][0].std(0, dtype=np.float64)
    # a feature without spread is shifted only
    scaled = {split: ((x - mean) / np.where(std > 1e-8, std, 1.0), y) for split, (x, y) in sets.items()}
    best, weights = (-1.0, 0.0, np.empty(0)), None
    for l2 in sorted(l2s, reverse=True):  # from stiff to loose, each the start of the next
        weights = fit_linear(*scaled["train"], classes=classes, l2=l2, start=weights)
        right = top_accuracy(linear_logits(scaled["validation"][0], weights), scaled["validation"][1])
        if right > best[0]:
            best = right, l2, weights
    logits = linear_logits(scaled["test"][0], best[2])
    return {"l2": best[1], "validation_accuracy": best[0], **classified(logits, sets["test"][1])}


def probe_few_labels(
    sets: Splits, share: float, l2s: Sequence[float], *, classes: int, seed: int
) -> dict[str, float]:
    """Return the record of a linear probe that knows `share` of the train labels, at least one per class.

    `sets` as for `probe_knn`. Means over DRAWS draws, each class in proportion, from the stream ("labels",
    share, draw).
    """
    features, labels = sets["train"]
    count = max(round(share * len(labels)), len(np.unique(labels)))
    records = []
    for draw in range(DRAWS):
        rows = stratified_choice(labels, count, numpy_stream(seed, "labels", str(share), draw), least=1)
        records.append(probe_linear({**sets, "train": (features[rows], labels[rows])}, l2s, classes=classes))
    names = [name for name in records[0] if name != "l2"]
    means = {name: float(np.mean([record[name] for record in records])) for name in names}
    return rounded({"labels": count, "draws": DRAWS, **means})


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracy, and accuracy_top5 where there are more than five classes."""
    record = {"accuracy": top_accuracy(scores, labels)}
    return record | ({"accuracy_top5": top_accuracy(scores, labels, 5)} if scores.shape[1] > 5 else {})


def classified(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the accuracies and the ece of logits [N, K]."""
    return rounded({**accuracies(logits, labels), "ece": expected_calibration_error(logits, labels)})


def rounded(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with numbers of six significant digits: the same on every CPU."""
    return {key: decimal(value) if isinstance(value, float) else value for key, value in record.items()}
