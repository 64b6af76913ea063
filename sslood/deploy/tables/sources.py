"""Files that hold vectors, as named columns that are read in batches: .npy, .safetensors, parquet."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sslood.core.errors import InputError, as_line
from sslood.core.files import load_tensors
from sslood.deploy.tables.arrow import Parquet, parquet_files
from sslood.ood.kit.vectors import DAMAGED

KINDS = ".npy, .safetensors, .parquet, or a folder of .parquet"
ARRAY = "the array"  # the name of the only one in a file
IDS = ("id", "path")  # columns that hold the IDs, if none is named
VECTORS = ("features", "embeddings", "embedding", "vectors", "vector")  # and those that hold the vectors


class Piece(NamedTuple):
    """Some rows: the file that they are in, the number of the first in it, and their values by column."""

    where: Path
    start: int
    columns: Mapping[str, Any]


class Source(Protocol):
    """Named columns of one length."""

    @property
    def names(self) -> list[str]:
        """The names of all columns."""

    def count(self, name: str) -> int:
        """Return the number of rows of a column."""

    def pieces(self, names: Sequence[str], size: int) -> Iterator[Piece]:
        """Yield the rows of some columns, at most `size` at a time."""

    def find_vectors(self, taken: Sequence[str]) -> list[str]:
        """Return which columns but those `taken` hold the vectors, [] if that is not clear."""

    def find_ids(self) -> str | None:
        """Return the column that holds the IDs, None if that is not clear."""


class Arrays:
    """Arrays of one file, memory-mapped; a `Source`."""

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        self.path, self.arrays = path, arrays

    @property
    def names(self) -> list[str]:
        return list(self.arrays)

    def count(self, name: str) -> int:
        return len(self.arrays[name]) if self.arrays[name].ndim else 0

    def pieces(self, names: Sequence[str], size: int) -> Iterator[Piece]:
        for start in range(0, self.count(names[0]), size):
            columns = {name: self.arrays[name][start : start + size] for name in names}
            yield Piece(self.path, start, columns)

    def find_vectors(self, taken: Sequence[str]) -> list[str]:
        """Return the only matrix, or the one with a usual name."""
        wide = [name for name, array in self.arrays.items() if array.ndim == 2 and name not in taken]
        usual = [name for name in wide if name in VECTORS]
        return self.names if self.names == [ARRAY] else wide if len(wide) == 1 else usual[:1]

    def find_ids(self) -> str | None:
        return None


class Columns(Parquet):
    """The columns of parquet files; a `Source`."""

    def count(self, name: str) -> int:
        return sum(self.counts.values())

    def pieces(self, names: Sequence[str], size: int) -> Iterator[Piece]:
        return (Piece(*found) for found in self.batches(names, size))

    def find_vectors(self, taken: Sequence[str]) -> list[str]:
        """Return the only column of lists of numbers, or one with a usual name; else all of fractions."""
        names = [name for name in self.names if name not in taken]
        lists = [name for name in names if self.is_list(name)]
        usual = [name for name in lists if name in VECTORS]
        if lists:
            return lists if len(lists) == 1 else usual[:1]
        return [name for name in names if self.is_float(name)]

    def find_ids(self) -> str | None:
        """Return the column called id or path, or the only one of texts, if not numbered like fractions."""
        numbered = {series_of(name) for name in self.names if self.is_float(name)} - {None}
        texts = [name for name in self.names if self.is_text(name) and series_of(name) not in numbered]
        usual = [name for name in IDS if name in self.names]
        return usual[0] if usual else texts[0] if len(texts) == 1 else None


class Beside:
    """A source with columns of other files, which have a value for each row; itself a `Source`."""

    def __init__(self, path: Path, source: Source, more: Mapping[str, Any]) -> None:
        self.path, self.source, self.more = path, source, more

    @property
    def names(self) -> list[str]:
        return [*self.source.names, *self.more]

    def count(self, name: str) -> int:
        return len(self.more[name]) if name in self.more else self.source.count(name)

    def pieces(self, names: Sequence[str], size: int) -> Iterator[Piece]:
        inner, more = [n for n in names if n not in self.more], [n for n in names if n in self.more]
        pieces: Iterable[Piece] = self.source.pieces(inner, size)
        if not inner:
            steps = range(0, self.count(more[0]), size)
            pieces = (Piece(self.path, start, {"": range(size)}) for start in steps)
        row = 0
        for where, start, columns in pieces:
            rows = slice(row, row + len(next(iter(columns.values()))))
            row = rows.stop
            yield Piece(where, start, {**columns, **{name: self.more[name][rows] for name in more}})

    def find_vectors(self, taken: Sequence[str]) -> list[str]:
        return self.source.find_vectors(taken)

    def find_ids(self) -> str | None:
        return self.source.find_ids()


def series_of(name: str) -> str | None:
    """Return what stands before a number at the end of a name, None for a name without: "e" of "e12"."""
    match = re.fullmatch(r"(.*?)\d+", name, re.DOTALL)
    return None if match is None else match[1]


def open_source(path: Path) -> Source:
    """Return the columns of a file; InputError if it is missing, of another kind, or broken."""
    if not path.exists():
        raise InputError(f"{path}: no such file; name a file of vectors: {KINDS}")
    if parts := parquet_files(path):
        return Columns(parts)
    if path.suffix.lower() == ".npy":
        return Arrays(path, {ARRAY: load_array(path)})
    if path.suffix.lower() == ".safetensors" and path.is_file():
        return Arrays(path, load_tensors(path)[0])
    if path.is_dir():
        raise InputError(f"{path}: holds no parquet file; name a file of vectors: {KINDS}")
    raise InputError(
        f"{path}: this kind of file is not known; name a file of vectors: {KINDS}; save a CSV file as "
        "parquet (pandas: read_csv(…).to_parquet(…))"
    )


def load_array(path: Path) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped; InputError if there is none. Nothing is unpickled."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise InputError(
            f"{path}: is no array that numpy.load can read ({as_line(error)}); save it by numpy.save"
        ) from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays; save one by numpy.save")
    return array


def load_lines(path: Path) -> list[str]:
    """Return the lines of a text file; InputError if it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 ({as_line(error)}); save it so") from None
