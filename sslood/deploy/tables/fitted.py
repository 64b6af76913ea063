"""Detectors fitted to vectors of a model that is elsewhere, kept in a detector file without a network.

from sslood.deploy.tables.fitted import fit_vectors, save_vectors

scorer = fit_vectors(vectors, alpha=0.05)  # float [N, D] of normal images
decisions = scorer.decide_vectors(others)  # scores, p_values, is_ood, predicted
save_vectors("mine.safetensors", scorer)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from sslood.core.errors import InputError, as_line
from sslood.deploy.normal.examples import Examples
from sslood.deploy.normal.fit_normal import Fitted, described, fit_normal
from sslood.deploy.normal.split import split_normal
from sslood.deploy.scorer import BIAS, VECTORS, WEIGHT, Deployed, save_deployed
from sslood.deploy.tables.reading import VectorTable, open_vectors
from sslood.deploy.tables.sources import Arrays, load_lines
from sslood.nets.networks.card import ModelCard
from sslood.ood.kit.network_detector import Progress
from sslood.ood.kit.outputs import chunks


@dataclass(frozen=True)
class FittedVectors:
    """The scorer, what is known of its fit, and notes: in sentences, which rows were left out."""

    scorer: Deployed
    fitted: Fitted
    notes: Sequence[str] = ()

    @property
    def card(self) -> ModelCard:
        """What the file says of the model that is elsewhere."""
        return ModelCard.read(self.scorer.metadata, "these vectors")

    def describe(self) -> list[str]:
        """Return in sentences what was done with the vectors, and what the detector is and catches."""
        return described(self.fitted, len(self.card.classes), "vectors")

    def save(self, path: str | Path) -> None:
        """Write the detector file."""
        save_vectors(path, self.scorer)


def fit_vectors(
    vectors: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    alpha: float,
    classes: Sequence[str] | None = None,
    logits: ArrayLike | None = None,
    detector: str | Sequence[str] = "auto",
    bad: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
) -> Deployed:
    """Return a scorer fitted to vectors [N, D] of normal images, of which it calls at most alpha OOD.

    labels [N]: texts or whole numbers, their classes. classes: their names, in the order of the logits [N, K]
    of the model's classifier, if there are any. bad: vectors of known bad images by name; all else as
    `fit_normal`. Raises InputError as `fit_table`.
    """
    given = {name: _table(name, rows) for name, rows in (bad or {}).items()}
    table = _table("vectors", vectors, labels=labels, logits=logits)
    return fit_table(table, alpha=alpha, classes=classes, detector=detector, bad=given, seed=seed).scorer


def _table(name: str, vectors: ArrayLike, **more: ArrayLike | None) -> VectorTable:
    arrays = {name: np.asarray(vectors)} | {
        key: np.asarray(part) for key, part in more.items() if part is not None
    }
    for key, array in arrays.items():
        if not array.ndim or len(array) != len(arrays[name]):
            raise InputError(
                f"{key} have the shape {array.shape}, where there are {len(arrays[name])} {name}"
            )
    labels, logits = (key if key in arrays else None for key in ("labels", "logits"))
    return VectorTable(Path(name), Arrays(Path(name), arrays), [name], labels=labels, logits=logits)


def fit_file(
    path: str | Path,
    *,
    alpha: float,
    column: str | None = None,
    ids: str | None = None,
    labels: str | None = None,
    logits: str | None = None,
    classes: str | Path | None = None,
    bad: Sequence[str | Path] = (),
    skip: bool = False,
    **options: Any,
) -> FittedVectors:
    """Return `fit_table` of the vectors in a file; column, ids, labels, logits: as `open_vectors` takes them.

    classes: a file of their names, a line each, in the order of the logits. bad: files of known bad vectors,
    read as the normal ones. skip: rows without a finite vector are left out, and noted.
    """
    skipped: list[str] | None = [] if skip else None
    parts: dict[str, Any] = {"column": column, "ids": ids, "logits": logits, "skipped": skipped}
    table = open_vectors(path, labels=labels, **parts)
    known = {str(one): open_vectors(one, **parts, known=table.columns) for one in bad}
    names = None if classes is None else load_lines(Path(classes))
    rows = len(table) + sum(map(len, known.values()))
    with tqdm(total=rows, desc="read", unit="vector", disable=None) as bar:
        found = fit_table(table, alpha=alpha, classes=names, bad=known, progress=bar.update, **options)
    return replace(found, notes=[f"{line}; left out" for line in skipped or ()])


def fit_table(
    table: VectorTable,
    *,
    alpha: float,
    classes: Sequence[str] | None = None,
    detector: str | Sequence[str] = "auto",
    bad: Mapping[str, VectorTable] | None = None,
    per_class: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda count: None,
) -> FittedVectors:
    """Return a scorer fitted to the vectors of normal images in a table; they are in memory, 4 bytes a value.

    Equal vectors stay together on one side of the split into those that are learned from and those that
    calibrate. With labels and no logits a linear classifier is learned, and kept in the file. progress: gets
    the number of vectors read. Raises InputError as the table does, for labels that are no class, for known
    bad vectors of another width, and if there are too few.
    """
    vectors, logits, labels = _all_rows(table, progress)
    names, places = _classes(table, labels, classes, None if logits is None else logits.shape[1])
    split = split_normal(
        len(vectors), alpha=alpha, seed=seed, groups=_groups(vectors), labels=places, what="vectors"
    )
    known = {}
    for name, one in (bad or {}).items():
        rows, own, _ = _all_rows(one, progress)
        known[name] = Examples(rows, logits=own)
    fitted = fit_normal(
        vectors,
        places,
        names,
        alpha=alpha,
        detector=detector,
        logits=logits,
        with_head=logits is None and len(names) > 1,
        per_class=per_class,
        bad=known,
        split=split,
        seed=seed,
        device=device,
        name="normal vectors",
    )
    classified = logits is not None or fitted.head is not None
    card = vector_card(
        vectors.shape[1],
        names if logits is None or names else [str(place) for place in range(logits.shape[1])],
        head=classified,
        columns=table.columns,
        name=table.path.stem,
        seed=seed,
    )
    return FittedVectors(Deployed(None, card, fitted.calibrated, fitted.head), fitted)


def _all_rows(
    table: VectorTable, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None, list[Any] | None]:
    """Return vectors [N, D], logits [N, K] and labels [N] of all rows of a table."""
    table.check_ids()
    vectors, done = np.empty((len(table), table.width), np.float32), 0
    logits: list[np.ndarray] = []
    labels: list[Any] = []
    for batch in table.batches():
        vectors[done : done + len(batch)] = batch.vectors
        logits += [] if batch.logits is None else [batch.logits]
        labels += batch.labels or []
        done += len(batch)
        progress(len(batch))
    if not done:
        raise InputError(f"{table.path}: no row has a finite vector")
    return vectors[:done], np.concatenate(logits) if logits else None, labels or None


def _classes(
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


def _groups(vectors: np.ndarray) -> np.ndarray:
    """Return int64 [N], equal for equal vectors [N, D]."""
    bits = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    hashes = [
        ((rows + 0.0).astype(np.float32).view(np.uint32) * bits).sum(axis=1, dtype=np.uint64)
        for rows in chunks(vectors)
    ]
    return np.unique(np.concatenate(hashes), return_inverse=True)[1]


def save_vectors(path: str | Path, scorer: Deployed) -> None:
    """Write a scorer of vectors as a detector file, which `load_deployed` reads."""
    head = scorer.head
    arrays = {} if head is None else {WEIGHT: np.asarray(head.weight), BIAS: np.asarray(head.bias)}
    save_deployed(path, arrays, scorer.metadata, scorer.calibrated)


def vector_card(
    width: int,
    classes: Sequence[str],
    *,
    head: bool = False,
    columns: Sequence[str] = (),
    name: str = VECTORS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the metadata of a model that is elsewhere, for `save_deployed`.

    width: D of its vectors. classes: names; with `head` the model has a logit for each, in this order.
    columns: what held the vectors, so that other tables are read alike.
    """
    card = ModelCard(
        name=name,
        arch=VECTORS,
        objective="adopted",
        seed=seed,
        id="the given vectors",
        size=1,  # of pictures, of which there are none
        channels=1,
        mean=[0.0],
        std=[1.0],
        resize="none",
        classes=list(classes),
        feature_dim=width,
        head_classes=list(range(len(classes))) if head else None,
    )
    return card.metadata() | {"columns": list(columns)}
