"""What is learned from a table of vectors: all of its rows, their classes, and which of them are equal."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslood.core.errors import InputError, as_line
from sslood.deploy.tables.reading import VectorTable
from sslood.ood.kit.network_detector import Progress
from sslood.ood.kit.outputs import chunks


def all_rows(
    table: VectorTable, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None, list[Any] | None]:
    """Return vectors [N, D], logits [N, K] and labels [N] of all rows of a table."""
    table.check_ids()
    vectors, done = np.empty((len(table), table.width), np.float32), 0
    logits: list[np.ndarray] = []
    labels: list[Any] = []
    for batch in table.batches():
        if not len(batch):  # none of its rows has a vector, so it has no width either
            continue
        vectors[done : done + len(batch)] = batch.vectors
        logits += [] if batch.logits is None else [batch.logits]
        labels += batch.labels or []
        done += len(batch)
        progress(len(batch))
    if not done:
        raise InputError(f"{table.path}: no row has a finite vector")
    return vectors[:done], np.concatenate(logits) if logits else None, labels or None


def class_indices(
    table: VectorTable, labels: list[Any] | None, classes: Sequence[str] | None, outputs: int | None
) -> tuple[list[str], np.ndarray | None]:
    """Return (names of the classes, class indices int64 [N]) from labels, the one in the order of logits."""
    if classes is not None and outputs is not None and len(classes) != outputs:
        raise InputError(f"{table.path}: logits are {outputs} wide, but there are {len(classes)} classes")
    if labels is None:
        return list(classes or []), None
    numbers = all(isinstance(label, int) for label in labels)
    if outputs is not None and not numbers and classes is None:
        raise InputError(
            f"{table.path}: labels are texts, so it is not known which class each of the logits is of; "
            "give the names of the classes in order (--classes)"
        )
    if numbers and (classes is not None or outputs is not None):
        known: list[Any] = list(range(len(classes or range(outputs or 0))))
        names = list(classes or map(str, known))
    else:
        known = list(classes or sorted({*labels} if numbers else {*map(str, labels)}))
        names, labels = [*map(str, known)], labels if numbers else [*map(str, labels)]
    places = {label: place for place, label in enumerate(known)}
    if unknown := [label for label in labels if label not in places]:
        there = as_line(", ".join(map(str, known)), 200)
        raise InputError(f"{table.path}: label {unknown[0]!r} is no class; there are {there}")
    return names, np.array([places[label] for label in labels], np.int64)


def groups_of(vectors: np.ndarray) -> np.ndarray:
    """Return int64 [N], equal for equal vectors [N, D]."""
    bits = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    hashes = [
        ((rows + 0.0).astype(np.float32).view(np.uint32) * bits).sum(axis=1, dtype=np.uint64)
        for rows in chunks(vectors)
    ]
    return np.unique(np.concatenate(hashes), return_inverse=True)[1]
