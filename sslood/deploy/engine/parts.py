"""A folder of parquet files that grows: each file is written whole, so what is there is what is done."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from sslood.core.errors import InputError, as_line
from sslood.core.files import atomic, remove_leftovers
from sslood.deploy.engine.daft import below, engine, read_parquet, said_once

ROWS, BYTES, SECONDS = 65_536, 64 << 20, 60.0  # what a part holds at most: a run that is killed loses less


class Parts:
    """The parts in a folder, or below an address of a store, and those to come.

    source, made_by: what the rows are of, and who judged them: a checksum. A folder holds rows of one source
    and one judge; another one, or other columns, are refused with an InputError.
    """

    def __init__(self, out: str, source: str, made_by: str, columns: list[str], io: Any):
        self.out, self.remote, self.io = out.rstrip("/"), "://" in out, io
        self.about = {"source": source, "made_by": made_by}
        self.columns = [*columns, *self.about]
        self.waiting: list[pa.Table] = []
        self.since, self.written = time.monotonic(), 0
        if not self.remote:
            Path(out).mkdir(parents=True, exist_ok=True)
        self._look()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder against a second run, and look what is there since the last one.

        What has been added is written when the context is left.
        """
        lock = FileLock(Path(self.out) / ".lock", blocking=False) if not self.remote else None
        try:
            if lock:
                lock.acquire()
                remove_leftovers(Path(self.out))
        except Timeout:
            raise InputError(f"{self.out}: another run writes there; wait for its end, or stop it") from None
        try:
            self._look()
            yield
        finally:
            try:
                self.flush()
            finally:
                if lock:
                    lock.release()

    def done(self, *columns: str) -> Any:
        """Return the written rows as a table of the engine, or None if there are none yet."""
        if not self.files:
            return None
        with said_once(self.out):
            return read_parquet(self.files, self.io).select(*columns)

    def add(self, rows: pa.Table) -> None:
        """Add rows with all columns but those that are the same in each; now and then a part is written."""
        for name, value in self.about.items():
            column = pa.array([value], pa.string()).dictionary_encode().take(pa.array([0] * len(rows)))
            rows = rows.append_column(name, column)
        self.waiting.append(rows.select(self.columns))
        size = sum(table.nbytes for table in self.waiting)
        many = sum(map(len, self.waiting)) >= ROWS or size >= BYTES
        if many or time.monotonic() - self.since >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as one part."""
        self.since = time.monotonic()
        if not self.waiting:
            return
        table, self.waiting = pa.concat_tables(self.waiting, promote_options="default"), []
        if not len(table):
            return
        if self.remote:
            plain = pa.table({name: table[name].cast(pa.string()) for name in self.about})
            table = table.drop_columns(list(self.about))  # the engine knows no dictionaries
            for name in self.about:
                table = table.append_column(name, plain[name])
            with said_once(self.out):
                engine().from_arrow(table).write_parquet(self.out, write_mode="append", io_config=self.io)
                self.files = self._there()
        else:
            number = 1 + max((int(Path(file).stem.split("-")[1]) for file in self._there()), default=-1)
            path = str(Path(self.out) / f"part-{number:06d}.parquet")
            write_table(path, table)
            self.files.append(path)
        self.written += len(table)

    def forget_unread(self, archives: Collection[str] = ()) -> int:
        """Take out the rows without a decision, so that they are tried again; return how many they were.

        Archives are read as a whole, so of one with such a row all rows go, if it is among `archives`, those
        that there still are. Of others none goes.
        """
        if self.remote:
            raise InputError(
                f"{self.out}: --retry needs results in a folder; copy them, or take another --out"
            )
        count = 0
        with self.alone():
            whole = self._with_unread(archives) if "shard" in self.columns else None
            for path in self.files:
                table = pq.read_table(path)
                gone = unread = pc.is_valid(table["reason"])
                if whole is not None:
                    gone = pc.is_in(table["shard"], value_set=whole)
                if pc.any(gone).as_py():
                    count += pc.sum(pc.and_(gone, unread)).as_py()
                    write_table(path, table.filter(pc.invert(gone)))
        return count

    def _with_unread(self, archives: Collection[str]) -> pa.Array:
        """Return those of some archives that a row without a decision is of."""
        found: set[str] = set()
        for path in self.files:
            some = pq.read_table(path, columns=["shard"], filters=pc.field("reason").is_valid())
            found.update(some["shard"].to_pylist())
        return pa.array(sorted(found & {*archives}), pa.string())

    def _look(self) -> None:
        self.files = self._there()
        self._check()

    def _there(self) -> list[str]:
        if not self.remote:
            return sorted(map(str, Path(self.out).glob("part-*.parquet")))
        found = below(f"{self.out}/*.parquet", self.io)
        return [] if found is None else sorted(found.to_pydict()["path"])

    def _check(self) -> None:
        if not self.files:
            return
        with said_once(self.out):
            frame = read_parquet(self.files, self.io)
            if sorted(frame.column_names) != sorted(self.columns):
                raise InputError(
                    f"{self.out}: holds the columns {', '.join(frame.column_names)}, this run gives "
                    f"{', '.join(self.columns)}; take another --out"
                )
            about = frame.select(*self.about).distinct().to_pylist()
        for key, what in (("source", "of other pictures"), ("made_by", "of another detector or model")):
            if others := sorted({row[key] for row in about} - {self.about[key]}):
                raise InputError(
                    f"{self.out}: holds results {what} ({others[0]}, now {self.about[key]}); "
                    "take another --out"
                )


def write_table(path: str, table: pa.Table) -> None:
    """Write a parquet file under a temporary name and rename it."""
    try:
        with atomic(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except pa.ArrowException as error:
        raise InputError(f"{path}: cannot be written ({as_line(error)})") from None
