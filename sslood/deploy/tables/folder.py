"""Vectors of image sets in a folder, for the tables of results: SET.SPLIT.npy, .safetensors or .parquet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.deploy.tables.reading import VectorTable, open_vectors
from sslood.deploy.tables.sources import load_lines, open_source
from sslood.ood.kit.vectors import Arrays, Split, read_npy, read_vectors

ENDINGS = (".npy", ".safetensors", ".parquet")
USUAL = {"labels": ("labels", "label"), "logits": ("logits",)}  # what columns are called if none is named


def read_folder(
    folder: Path, splits: Mapping[str, Sequence[str]], id_name: str, **columns: str | None
) -> tuple[Arrays, list[str], dict[str, dict[str, int]]]:
    """Return what `read_vectors` does, of files of any kind; columns: those that `FolderReader` takes.

    Where labels are texts, the classes are those of classes.txt, in its order, or else those of the labels of
    ID train, sorted. Raises InputError as `read_vectors`, and for logits whose order of classes is unknown.
    """
    reader = FolderReader(**columns, id_name=id_name)
    names = None
    if (folder / "classes.txt").exists():
        reader = replace(reader, classes=load_lines(folder / "classes.txt"))
    elif (names := reader.class_names(folder, f"{id_name}.train")) is not None:
        reader = replace(reader, classes=names)
    found = read_vectors(folder, splits, id_name, reader, names)
    if names is not None and any(key.endswith(".logits") for key in found[0]):
        raise InputError(
            f"{folder}: labels are texts, so it is not known which class each of the logits is of; write "
            "their names in order to classes.txt"
        )
    return found


@dataclass(frozen=True)
class FolderReader:
    """A `Reader` of `read_vectors` that takes the splits of a folder from files of any kind.

    column, labels, logits: the names of the columns or tensors in them, by default the usual ones; labels are
    class indices or texts, of which the classes of the ID set are `classes`, in order.
    """

    column: str | None = None
    labels: str | None = None
    logits: str | None = None
    id_name: str = ""
    classes: Sequence[str] | None = None

    def __call__(self, folder: Path, name: str) -> Split:
        """Return a split; InputError, naming the file, if there is none, or one of its rows cannot be."""
        path = self._path(folder, name)
        if path.suffix == ".npy":
            return read_npy(folder, name)
        table = self._open(path)
        batches = list(table.batches())
        labels = [label for batch in batches for label in batch.labels or [-1] * len(batch)]
        logits = [batch.logits for batch in batches if batch.logits is not None]
        return Split(
            path,
            np.concatenate([batch.vectors for batch in batches]),
            self._indices(path, labels, name.startswith(f"{self.id_name}.")),
            np.concatenate(logits) if logits else None,
        )

    def class_names(self, folder: Path, name: str) -> list[str] | None:
        """Return the sorted labels of a split if they are texts, else None: they are indices then."""
        path = self._path(folder, name)
        if path.suffix == ".npy":
            return None
        found = {label for batch in self._open(path).batches() for label in batch.labels or ()}
        return sorted(map(str, found)) if any(isinstance(label, str) for label in found) else None

    def _path(self, folder: Path, name: str) -> Path:
        there = [path for path in (folder / f"{name}{end}" for end in ENDINGS) if path.exists()]
        if len(there) > 1:
            raise InputError(f"{there[0]}: {there[1].name} is beside it; keep one of them")
        return there[0] if there else folder / f"{name}.npy"  # which is missing

    def _open(self, path: Path) -> VectorTable:
        names = open_source(path).names
        named: dict[str, Any] = {"labels": self.labels, "logits": self.logits}
        for part, usual in USUAL.items():
            named[part] = named[part] or next((name for name in usual if name in names), None)
        return open_vectors(path, column=self.column, **named)

    def _indices(self, path: Path, labels: list[Any], is_id: bool) -> np.ndarray:
        """Return class indices int64 [N]; of texts, their places in the classes of the set.

        InputError for a text that is no class, and a number that is no index.
        """
        if not any(isinstance(label, str) for label in labels):
            wrong = next((label for label in labels if not -1 <= label <= np.iinfo(np.int64).max), None)
            if wrong is not None:
                raise InputError(f"{path}: label {wrong} is no class index from 0 (or -1, unknown)")
            return np.array(labels, np.int64)
        classes = self.classes if is_id and self.classes is not None else sorted({*map(str, labels)})
        places = {label: place for place, label in enumerate(classes)}
        unknown = next((label for label in map(str, labels) if label not in places), None)
        if unknown is not None:
            raise InputError(f"{path}: label {unknown!r} is no class; known: {', '.join(classes[:20])}")
        return np.array([places[str(label)] for label in labels], np.int64)
