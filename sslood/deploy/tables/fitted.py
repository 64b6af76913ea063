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

from sslood.core.errors import InputError
from sslood.deploy.catches import Catch
from sslood.deploy.normal.choice import Given
from sslood.deploy.normal.examples import Examples
from sslood.deploy.normal.fit_normal import Fitted, described, fit_normal
from sslood.deploy.normal.known_bad import kind_of
from sslood.deploy.normal.split import split_normal
from sslood.deploy.scorer import BIAS, VECTORS, WEIGHT, Deployed, save_deployed
from sslood.deploy.tables.examples import all_rows, class_indices, groups_of
from sslood.deploy.tables.reading import VectorTable, between, open_vectors
from sslood.deploy.tables.sources import Arrays, load_lines
from sslood.nets.networks.card import ModelCard
from sslood.ood.kit.network_detector import Progress

LENGTHS = (
    "only the direction of a vector counts: one that is merely longer or shorter is not found; "
    "--detector mahalanobis --set mahalanobis.beta=0 sees lengths, too"
)


@dataclass(frozen=True)
class FittedVectors:
    """The scorer, what is known of its fit, and notes: which rows were left out, what it cannot see."""

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
    given: Given | None = None,
    bad: Mapping[str, ArrayLike] | None = None,
    odd: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
) -> Deployed:
    """Return a scorer fitted to vectors [N, D] of normal images, of which it calls at most alpha OOD.

    labels [N]: texts or whole numbers, their classes. classes: their names, in the order of the logits [N, K]
    of the model's classifier, if there are any. bad: vectors of known bad images by name, which are
    learned from; odd: of others that are not normal, on which it is measured what is called OOD; all else as
    `fit_normal`. Raises InputError as `fit_table`.
    """
    known, others = ({name: _table(name, rows) for name, rows in (of or {}).items()} for of in (bad, odd))
    table = _table("vectors", vectors, labels=labels, logits=logits)
    options: dict[str, Any] = {"classes": classes, "detector": detector, "given": given, "seed": seed}
    return fit_table(table, alpha=alpha, bad=known, odd=others, **options).scorer


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
    odd: Sequence[str | Path] = (),
    skip: bool = False,
    **options: Any,
) -> FittedVectors:
    """Return `fit_table` of the vectors in a file; column, ids, labels, logits: as `open_vectors` takes them.

    classes: a file of their names, a line each, in the order of the logits. bad: files of known bad vectors,
    odd: of others that are not normal, both read as the normal ones. skip: rows without a finite vector are
    left out, and noted.
    """
    skipped: list[str] | None = [] if skip else None
    parts: dict[str, Any] = {"column": column, "ids": ids, "logits": logits, "skipped": skipped}
    table = open_vectors(path, labels=labels, **parts)
    known, others = (
        {kind_of(one, paths): open_vectors(one, **parts, known=table.columns) for one in paths}
        for paths in (bad, odd)
    )
    names = None if classes is None else load_lines(Path(classes))
    rows = sum(map(len, (table, *known.values(), *others.values())))
    given: dict[str, Any] = {"alpha": alpha, "classes": names, "bad": known, "odd": others}
    with tqdm(total=rows, desc="read", unit="vector", disable=None) as bar:
        found = fit_table(table, **given, progress=bar.update, **options)
    notes = [f"{line}; left out" for line in skipped or ()]
    if len(table.columns) > 1:
        notes.append(f"the vector is {len(table.columns)} columns: {between(table.columns)}")
    return replace(found, notes=[*notes, *found.notes])


def fit_table(
    table: VectorTable,
    *,
    alpha: float,
    classes: Sequence[str] | None = None,
    detector: str | Sequence[str] = "auto",
    given: Given | None = None,
    bad: Mapping[str, VectorTable] | None = None,
    per_class: bool = False,
    odd: Mapping[str, VectorTable] | None = None,
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
    vectors, logits, labels = all_rows(table, progress)
    names, places = class_indices(table, labels, classes, None if logits is None else logits.shape[1])
    split = split_normal(
        len(vectors), alpha=alpha, seed=seed, groups=groups_of(vectors), labels=places, what="vectors"
    )
    known = {}
    for name, one in (bad or {}).items():
        rows, own, _ = all_rows(one, progress)
        known[name] = Examples(rows, logits=own)
    fitted = fit_normal(
        vectors,
        places,
        names,
        alpha=alpha,
        detector=detector,
        given=given,
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
    scorer = Deployed(None, card, fitted.calibrated, fitted.head)
    caught = [*fitted.calibrated.catches]
    for name, one in (odd or {}).items():
        rows, own, _ = all_rows(one, progress)
        caught.append(Catch(name, "far", len(rows), float(scorer.decide_vectors(rows, own).is_ood.mean())))
    calibrated = replace(
        fitted.calibrated, catches=caught, unmeasured="" if caught else "no vectors are given as odd or bad"
    )
    notes = [LENGTHS] if logits is None and _sees_directions_alone(scorer, vectors) else []
    return FittedVectors(
        replace(scorer, calibrated=calibrated), replace(fitted, calibrated=calibrated), notes
    )


def _sees_directions_alone(scorer: Deployed, vectors: np.ndarray) -> bool:
    """Whether vectors of ten times the length are as OOD as these."""
    some = vectors[:20]
    scores, longer = (scorer.decide_vectors(rows).scores for rows in (some, 10 * some))
    return bool(np.allclose(scores, longer, rtol=1e-4, atol=1e-6))


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
