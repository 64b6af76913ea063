"""Tables of scores, CSV or parquet by the ending of their name, written batch by batch."""

import csv
import fcntl
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.core.names import cell, path_cell, shown
from sslood.deploy.tables.arrow import SUFFIX, arrow

Values = Mapping[str, Sequence[Any]]  # column -> a value for each row
CSV = ".csv"
TABLES = (CSV, SUFFIX)  # endings that a table's name may have, if it has one
ROWS = 8192  # rows in memory when a table is written again


def is_parquet(path: str | Path) -> bool:
    """Whether a table of this name is parquet; others are CSV."""
    return Path(path).suffix.lower() == SUFFIX


def check_table(path: str | Path, kinds: Sequence[str] = TABLES) -> None:
    """Raise InputError for an ending of another kind, or if it needs a package that is not installed."""
    if (ending := Path(path).suffix) and ending.lower() not in kinds:
        raise InputError(f"{path}: a table is not written as {ending}; end its name in {' or '.join(kinds)}")
    if is_parquet(path):
        arrow(path)


class Sheet(Protocol):
    """A table that grows; the columns are those of the first rows."""

    def add(self, values: Values) -> None:
        """Write some rows; `path` is what they are of, a text or a whole number."""

    def close(self) -> None:
        """Finish the file."""


class CSVSheet:
    """A CSV file whose texts no spreadsheet runs; is_ood is true or false."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.empty = True

    def add(self, values: Values) -> None:
        if self.empty:
            self.writer.writerow([cell(column) for column in values])
            self.empty = False
        columns = [[_cell(key, value) for value in _python(values[key])] for key in values]
        self.writer.writerows(zip(*columns, strict=True))
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class ParquetSheet:
    """A parquet file; texts are as they are, but for bytes that are not UTF-8, which become %XX."""

    def __init__(self, path: Path) -> None:
        self.path, self.arrow = path, arrow(path)
        self.writer: Any = None

    def add(self, values: Values) -> None:
        table = self.arrow.table({key: _utf8(column) for key, column in values.items()})
        if self.writer is None:
            self.writer = self.arrow.parquet.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _python(column: Sequence[Any]) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _cell(column: str, value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return path_cell(value) if column == "path" else cell(value)
    return value


def _utf8(column: Sequence[Any]) -> Sequence[Any]:
    try:
        for value in column if isinstance(column, list) else ():
            value.encode() if isinstance(value, str) else None
    except UnicodeEncodeError:
        return [path_cell(one) if isinstance(one, str) and not _is_utf8(one) else one for one in column]
    return column


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def save_columns(path: str | Path, values: Values) -> None:
    """Write a whole table as parquet."""
    with atomic(path) as temporary:
        sheet = ParquetSheet(temporary)
        sheet.add(values)
        sheet.close()


@contextmanager
def held(partial: Path) -> Iterator[None]:
    """Make the file `partial`, and hold it; InputError if another run is writing it.

    What an earlier run left there is kept under another name, which is said.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_symlink():  # nobody's file elsewhere is written to
        partial.unlink()
    while True:
        with open(partial, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{partial}: another run is writing it; wait until it is done, or give another --out"
                ) from None
            except OSError:  # a file system without locks
                pass
            if not _is_there(file, partial):
                continue
            if not os.fstat(file.fileno()).st_size:
                yield
                return
            _put_aside(partial)


def _put_aside(partial: Path) -> None:
    """Give the rows that an earlier run left a name of their own."""
    names = (f"{partial}.{number}" for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    os.rename(partial, aside)
    print(shown(f"The rows that an earlier run left in {partial} are now in {aside}."), file=sys.stderr)


def _is_there(file: BinaryIO, path: Path) -> bool:
    """Whether a path still names an open file: it goes, or gets its final name, as another run ends."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def growing(
    out: str | Path, flags: Callable[[], np.ndarray | None] = lambda: None
) -> Iterator[Callable[[Values], None]]:
    """Yield what adds rows to the table `out`, which is called `out`.partial until all went well.

    flags: gives `is_ood` of all rows in the end, where it is decided about them together. If the run ends
    early, the rows stay under that name, and whatever ends it says so, but for a kill: that leaves the rows
    of a CSV file, and nothing that can be read of a parquet file.
    """
    partial = Path(f"{out}.partial")
    with held(partial):
        with _kept(partial, ParquetSheet if is_parquet(out) else CSVSheet) as add:
            yield add
        if (found := flags()) is None:
            os.replace(partial, out)
        else:
            (_judge_parquet if is_parquet(out) else _judge_csv)(partial, out, found)
            partial.unlink()


@contextmanager
def _kept(partial: Path, kind: Callable[[Path], Sheet]) -> Iterator[Callable[[Values], None]]:
    """Yield what adds rows to a table in the file `partial`, where they stay if the run ends early."""
    sheet, count = kind(partial), 0

    def add(values: Values) -> None:
        nonlocal count
        sheet.add(values)
        count += len(values["path"])

    try:
        yield add
    except BaseException as error:
        sheet.close()
        if not count:
            partial.unlink(missing_ok=True)
        elif isinstance(error, InputError):
            raise InputError(f"{error}; the {count} rows scored before it are in {partial}") from None
        else:
            print(shown(f"The {count} rows scored so far are in {partial}."), file=sys.stderr)
        raise
    sheet.close()


def _judge_parquet(path: Path, out: str | Path, flags: np.ndarray) -> None:
    """Write a table again as `out` with other `is_ood`; a batch of rows is in memory."""
    with atomic(out) as temporary:
        sheet, done = ParquetSheet(temporary), 0
        for batch in arrow(path).parquet.ParquetFile(path, pre_buffer=False).iter_batches(ROWS):
            sheet.add(batch.to_pydict() | {"is_ood": flags[done : (done := done + len(batch))]})
        sheet.close()


def _judge_csv(path: Path, out: str | Path, flags: np.ndarray) -> None:
    """Do the same for a CSV file."""
    encoded: dict[str, Any] = {"newline": "", "encoding": "utf-8"}
    with atomic(out) as temporary, open(path, **encoded) as old, open(temporary, "w", **encoded) as new:
        lines, writer = csv.reader(old), csv.writer(new, lineterminator="\n")
        writer.writerow(header := next(lines))
        place = header.index("is_ood")
        for line, flag in zip(lines, flags.tolist(), strict=True):
            line[place] = "true" if flag else "false"
            writer.writerow(line)
