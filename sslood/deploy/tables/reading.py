"""Tables of vectors, read in batches and checked: every row has an ID and a finite vector of one width.

    from sslood.deploy.tables.reading import open_vectors

    table = open_vectors("vectors.parquet", column="embedding", ids="path")
    for batch in table.batches():
        batch.ids, batch.vectors  # texts or integers [n], float32 [n, D]

Rows count from 0, in messages too.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sslood.core.errors import InputError, as_line
from sslood.deploy.tables.cells import Rows
from sslood.deploy.tables.sources import Beside, Source, load_array, load_lines, open_source, series_of

BATCH = 8192  # rows in memory at a time: 16 MiB of 512 numbers
FILES = (".npy", ".txt")  # that hold what belongs to the rows of another file


@dataclass(frozen=True)
class Batch:
    """Rows of a table: ids and labels, texts or integers [n]; vectors float32 [n, D], logits [n, K]."""

    ids: list[Any]
    vectors: np.ndarray
    logits: np.ndarray | None = None
    labels: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, kept: np.ndarray) -> "Batch":
        """Return some of the rows; kept: bool [n]."""
        ids, labels = (
            None if part is None else [one for one, keep in zip(part, kept.tolist(), strict=True) if keep]
            for part in (self.ids, self.labels)
        )
        return Batch(
            ids or [], self.vectors[kept], None if self.logits is None else self.logits[kept], labels
        )


@dataclass(frozen=True)
class VectorTable:
    """Vectors in a file: the columns that hold them, one of lists, or one for each dimension.

    ids, logits, labels: their columns, None without. skipped: gets a sentence for each row without a finite
    vector, which is then left out; None: such a row is an error.
    """

    path: Path
    source: Source
    columns: Sequence[str]
    ids: str | None = None
    logits: str | None = None
    labels: str | None = None
    skipped: list[str] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return self.source.count(self.columns[0])

    @property
    def width(self) -> int:
        """D, of the first row that has a vector; InputError if none has."""
        for batch in replace(self, ids=None, logits=None, labels=None, skipped=[]).batches():
            if width := batch.vectors.shape[1]:
                return int(width)
        raise InputError(f"{self.path}: no row has a vector; make the vectors again")

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """Yield the rows in order, at most `size` at a time; a batch may lose rows to `skipped`.

        Raises InputError, naming the row and its ID, for a vector that is missing, of another width, or not
        finite as float32; for values that are no numbers; for an ID or a label that is missing.
        """
        named = [name for name in (self.ids, self.logits, self.labels) if name is not None]
        widths: dict[str, int] = {}
        seen = 0
        for where, start, columns in self.source.pieces([*self.columns, *named], size):
            count = len(columns[self.columns[0]])
            rows = Rows(where, start, range(seen, seen + count))
            seen += count
            if self.ids is not None:
                rows = replace(rows, ids=rows.values(self.ids, columns[self.ids], "ID"))
            kept = np.ones(count, bool)
            vectors = self._finite("vector", rows, {key: columns[key] for key in self.columns}, widths, kept)
            logits = labels = None
            if self.logits is not None:
                logits = self._finite("logits", rows, {self.logits: columns[self.logits]}, widths, kept)
            if self.labels is not None:
                labels = rows.values(self.labels, columns[self.labels], "label")
            batch = Batch(list(rows.ids), vectors, logits, labels)
            yield batch if kept.all() else batch.only(kept)

    def _finite(
        self, part: str, rows: Rows, columns: dict[str, Any], widths: dict[str, int], kept: np.ndarray
    ) -> np.ndarray:
        """Return a matrix float32 [n, width]; rows that are not finite are an error, or not `kept`."""
        matrix, missing, beyond = rows.matrix(columns, widths.get(part))
        if not missing.all():
            widths.setdefault(part, matrix.shape[1])
        unfit = ~missing & ~beyond & ~np.isfinite(matrix).all(axis=1)
        for bad, what in (
            (missing, f"no {part}"),
            (unfit, f"NaN or infinite numbers in its {part}"),
            (beyond, f"numbers too large for float32 in its {part}"),
        ):
            if bad.any() and self.skipped is None:
                remedy = "make the vectors again, or leave such rows out with --skip_unreadable"
                raise rows.wrong(np.flatnonzero(bad), f"{what}; {remedy}")
            if self.skipped is not None:
                self.skipped.extend(str(rows.wrong(at, what)) for at in np.flatnonzero(bad & kept)[:, None])
            kept &= ~bad
        return matrix

    def check_ids(self) -> None:
        """Raise InputError, naming both rows, if an ID stands twice. Takes 8 bytes a row, and one pass."""
        found = [_hashes(ids) for _, ids in self._id_pieces()]
        hashes, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *found]), return_counts=True)
        first: dict[Any, str] = {}
        for rows, ids in self._id_pieces() if (counts > 1).any() else ():
            for at in np.flatnonzero(np.isin(_hashes(ids), hashes[counts > 1])).tolist():
                if ids[at] in first:
                    raise rows.wrong(np.array([at]), f"{first[ids[at]]} has the same ID; keep one of them")
                first[ids[at]] = f"row {rows.start + at}" + f" of {rows.where.name}" * self.path.is_dir()

    def _id_pieces(self) -> Iterator[tuple[Rows, list[Any]]]:
        if (name := self.ids) is not None:
            for where, start, columns in self.source.pieces([name], BATCH):
                ids = Rows(where, start, range(start, start + BATCH)).values(name, columns[name], "ID")
                yield Rows(where, start, ids), ids


def _hashes(ids: list[Any]) -> np.ndarray:
    return pd.util.hash_array(np.array([*map(str, ids)], object), categorize=False)


def open_vectors(
    path: str | Path,
    *,
    column: str | None = None,
    ids: str | None = None,
    logits: str | None = None,
    labels: str | None = None,
    known: Sequence[str] = (),
    skipped: list[str] | None = None,
) -> VectorTable:
    """Return the table of vectors in a file: .npy, .safetensors, .parquet, or a folder of parquet files.

    column: the name of what holds the vectors, a column of lists or a tensor [N, D], or a pattern such as
    `emb_*` of one column for each dimension, taken in the order of the file. Without it: `known`, the columns
    that a detector was fitted to, if the file has them; else the only column of lists, tensor [N, D], or one
    of a usual name; else all columns of fractions. ids, logits, labels: a column too, or a file beside, .npy
    or a line each; without `ids` the column `id` or `path`, or the only one of texts, else the rows' numbers.
    Raises InputError, listing the columns, for one that is missing or not clear, and for files of different
    lengths.
    """
    where = Path(os.path.expanduser(path))
    source = open_source(where)
    roles = {"ids": ids, "logits": logits, "labels": labels}
    beside = {
        name: _beside(Path(os.path.expanduser(name)))
        for name in roles.values()
        if name is not None and name not in source.names and Path(name).suffix.lower() in FILES
    }
    if beside:
        source = Beside(where, source, beside)
    for role, name in roles.items():
        if name is not None and name not in source.names:
            raise _missing(where, source, f"no {name!r} for the {role}")
    taken = [name for name in roles.values() if name is not None]
    if ids is None and (found := source.find_ids()) is not None and found not in (*taken, column):
        roles["ids"] = found
    columns = _columns(where, source, column, [*filter(None, roles.values())], known)
    table = VectorTable(where, source, columns, **roles, skipped=skipped)
    if not len(table):
        raise InputError(f"{where}: holds no vectors")
    for name in filter(None, roles.values()):
        if source.count(name) != len(table):
            raise InputError(
                f"{where}: {name!r} has {source.count(name)} rows, but there are {len(table)} vectors"
            )
    return table


def _columns(
    where: Path, source: Source, column: str | None, taken: Sequence[str], known: Sequence[str]
) -> list[str]:
    """Return the names of what holds the vectors; InputError if there is none, or it is not clear."""
    if column is not None:
        found = [column] if column in source.names else [
            name for name in source.names if fnmatchcase(name, column) and name not in taken
        ]  # fmt: skip
        if not found:
            raise _missing(where, source, f"no {column!r} for the vectors")
        return found
    if len(known) > 1 or set(known) & {*source.names}:
        if missing := [name for name in known if name not in source.names]:
            raise _missing(where, source, f"no {missing[0]!r}, which the detector was fitted to")
        return list(known)
    found = source.find_vectors(taken)
    if not found:
        raise _missing(where, source, "it is not clear what holds the vectors; name it with --column")
    _check_series(where, source, found, taken)
    return found


def _check_series(where: Path, source: Source, found: Sequence[str], taken: Sequence[str]) -> None:
    """Raise InputError if columns that are taken for one vector are not all of one numbered series, e0, e1, …

    Columns without any number pass: measurements have names of their own.
    """
    series = [name for name in found if series_of(name) is not None]
    if len(found) < 2 or not series:
        return
    usual = Counter(map(series_of, series)).most_common(1)[0][0]
    inside = [name for name in series if series_of(name) == usual]
    remedy = f"name the columns of the vector with --column, such as --column '{usual}[0-9]*'"
    beside = [name for name in found if name not in inside]
    if beside:
        listed = as_line(", ".join(beside), 100)
        raise InputError(
            f"{where}: {listed} would be part of the vector beside {between(inside)}: all hold fractions; "
            f"{remedy}"
        )
    kinds = [name for name in source.names if series_of(name) == usual and name not in (*found, *taken)]
    if kinds:
        listed = as_line(", ".join(kinds), 100)
        raise InputError(
            f"{where}: {listed} would be left out of the vector {between(inside)}, as it holds no fractions; "
            f"store it like the others, or {remedy}"
        )


def between(names: Sequence[str]) -> str:
    """Return columns as a person would list them: "e0 … e7"."""
    return as_line(f"{names[0]} … {names[-1]}" if len(names) > 3 else ", ".join(names), 100)


def _missing(where: Path, source: Source, what: str) -> InputError:
    return InputError(f"{where}: {what}; it holds {as_line(', '.join(source.names), 300)}")


def _beside(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return load_array(path) if path.suffix.lower() == ".npy" else load_lines(path)
