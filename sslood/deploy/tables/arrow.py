"""Arrow's tables through pyarrow, which is optional: readers of parquet, and columns as NumPy arrays."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sslood.core.errors import InputError, as_line

SUFFIX = ".parquet"


def arrow(path: str | Path) -> ModuleType:
    """Return the package pyarrow; InputError, naming the file that needs it, if it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: parquet needs the package pyarrow: pip install -r requirements-parquet.txt"
        ) from None
    return pyarrow


def parquet_files(path: Path) -> list[Path]:
    """Return a parquet file, or the parts in a folder in the order of their names; [] for anything else."""
    if path.is_dir():
        return sorted(part for part in path.rglob(f"*{SUFFIX}") if part.is_file())
    return [path] if path.suffix.lower() == SUFFIX else []


class Parquet:
    """One or more parquet files with the same columns; a batch of rows is in memory at a time.

    counts: rows of each file. Raises InputError for a file that is no parquet, and for one whose columns
    differ from the first.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts, self.arrow = parts, arrow(parts[0])
        self.counts: dict[Path, int] = {}
        self.schema: Any = self._open(parts[0]).schema_arrow.remove_metadata()
        for part in parts:
            file = self._open(part)
            self.counts[part] = file.metadata.num_rows
            if not file.schema_arrow.remove_metadata().equals(self.schema):
                raise InputError(
                    f"{part}: has other columns than {parts[0]}; put tables of one kind into a folder"
                )

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)

    def is_list(self, name: str) -> bool:
        """Whether a column holds lists of numbers."""
        kind, types = self.schema.field(name).type, self.arrow.types
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return bool(types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
        return False

    def is_float(self, name: str) -> bool:
        """Whether a column holds one fraction a row."""
        return bool(self.arrow.types.is_floating(self.schema.field(name).type))

    def is_text(self, name: str) -> bool:
        """Whether a column holds text."""
        kind, types = self.schema.field(name).type, self.arrow.types
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_string(kind) or types.is_large_string(kind))

    def batches(self, names: Sequence[str], size: int) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """Yield (file, number of the first row in it, {column: Arrow array}), at most `size` rows each."""
        for part in self.parts:
            start = 0
            try:
                for batch in self._open(part).iter_batches(size, columns=list(dict.fromkeys(names))):
                    yield part, start, dict(zip(batch.schema.names, batch.columns, strict=True))
                    start += batch.num_rows
            except (self.arrow.ArrowException, OSError) as error:
                raise _broken(part, error) from None

    def _open(self, part: Path) -> Any:
        try:
            return self.arrow.parquet.ParquetFile(part)
        except (self.arrow.ArrowException, OSError) as error:
            raise _broken(part, error) from None


def _broken(part: Path, error: Exception) -> InputError:
    return InputError(f"{part}: cannot be read as parquet ({as_line(error)}); write it again")


def numbers_of(values: Any) -> np.ndarray | None:
    """Return an Arrow array of numbers as a NumPy array, NaN where there is none; None for other types."""
    types = arrow("").types
    if types.is_floating(values.type) or types.is_integer(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    return None


def lists_of(values: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (the numbers of lists one after the other, the length of each, -1 for none) of an Arrow array.

    None for other types.
    """
    pyarrow = arrow("")
    types, compute = pyarrow.types, pyarrow.compute
    kind = values.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    flat = numbers_of(values.flatten())
    return (
        None if flat is None else (flat, np.asarray(compute.fill_null(compute.list_value_length(values), -1)))
    )


def texts_of(values: Any) -> list[Any]:
    """Return the values of an Arrow or NumPy array as Python's, None for what is missing."""
    return list(values.tolist() if isinstance(values, np.ndarray) else values.to_pylist())
