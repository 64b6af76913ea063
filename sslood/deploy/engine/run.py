"""Pictures of a source through workers, into parts: one row a picture, however often it is run."""

import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sslood.deploy.engine.daft import engine, said_once
from sslood.deploy.engine.parts import Parts
from sslood.deploy.engine.sources import DATA, WHERE, Source
from sslood.deploy.engine.worker import SAID, Opener, Worker
from sslood.deploy.scorer import BATCH
from sslood.deploy.thresholds import ROUNDING, check_rate
from sslood.ood.kit.network_detector import Progress

ROWS = "sslood rows"
AHEAD = 2  # results that wait for the writer
BUFFER = 8 << 20  # bytes of an archive that are read at a time
CONNECTIONS = 32  # pictures that are fetched at the same time


@dataclass(frozen=True)
class Workers:
    """How many workers judge, and what each may use; threads: 0 shares the cores out among them.

    processes: whether each is a process of its own; None: if there are several. One alone lives in this one,
    where the engine's threads share it: some decode while one computes.
    """

    count: int = 1
    gpus: float = 0.0
    threads: int = 0
    batch_size: int = BATCH
    processes: bool | None = None

    @property
    def apart(self) -> bool:
        """Whether workers are processes."""
        return self.count > 1 if self.processes is None else self.processes

    def make(self, opener: Opener) -> Callable[[], Worker]:
        """Return what makes a worker, in the process where it works."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = self.threads or max(1, cores // self.count)
        alone, batch_size = self.apart, self.batch_size
        return lambda: Worker(opener, threads, alone, batch_size)


_open: dict[str, Worker] = {}  # of this process, by the run that they are of
_opening = threading.Lock()


def _worker(run: str, make: Callable[[], Worker]) -> Worker:
    """Return the worker of a run in this process: all of the engine's threads share it."""
    with _opening:
        if run not in _open:
            _open[run] = make()
        return _open[run]


def judge_pictures(
    source: Source,
    opener: Opener,
    parts: Parts,
    workers: Workers,
    *,
    io: Any = None,
    progress: Progress = lambda count: None,
    make: Callable[[], Worker] | None = None,
) -> int:
    """Judge what `parts` do not hold yet and add it to them; return the number of new rows.

    Rows whose key (`path`, with its edges in a list of boxes, or `shard` of an archive) is in the parts are
    not judged again. `progress` is called with the number of keys that are done: at first those from before.
    make: a worker, for tests.
    Raises InputError for a store that cannot be read, if another run writes to the parts, and if a worker is
    killed; KeyboardInterrupt, when what was judged is written, if the engine was interrupted.
    """
    run, made = uuid.uuid4().hex, make or workers.make(opener)
    before, seen = parts.written, 0
    try:
        with parts.alone():  # what is done too is read while nobody else writes
            frame = _left(source, parts, progress)
            rows = _rows(frame, source, opener, workers, io, lambda: _worker(run, made))
            with said_once(source.name):
                for batch in rows.to_arrow_iter(results_buffer_size=AHEAD):
                    parts.add(_flat(pa.table(batch), source, opener))
                    seen += batch.num_rows
                    progress(batch.num_rows)
    finally:
        _open.pop(run, None)
    if seen < _expected(frame, source):  # the engine ends quietly when it is interrupted
        raise KeyboardInterrupt
    return parts.written - before


def _left(source: Source, parts: Parts, progress: Progress) -> Any:
    """Return the rows of the source that the parts do not hold."""
    key = [source.unit, *source.box]
    if (done := parts.done(*key)) is None:
        return source.frame
    with said_once(parts.out):
        done = done.distinct().collect()
        progress(len(done))
    return source.frame.join(done, on=key, how="anti")


def _expected(frame: Any, source: Source) -> int:
    """Return how many keys were to be judged."""
    with said_once(source.name):
        return int(frame.count_rows())


def _rows(
    frame: Any, source: Source, opener: Opener, workers: Workers, io: Any, make: Callable[[], Worker]
) -> Any:
    """Return the table of the engine with the column ROWS."""
    daft = engine()
    from daft.functions import download

    fields = {**opener.columns, **SAID}
    one = daft.DataType.from_arrow_type(pa.struct(fields))
    many = daft.DataType.from_arrow_type(pa.list_(pa.struct({"path": pa.string(), **fields})))
    col, fetched = daft.col, source.fetched

    def reading(address: str) -> Any:
        return daft.open_file(address, "rb", BUFFER, io_config=io) if fetched else open(address, "rb")

    class Judge:
        def __init__(self) -> None:
            self.worker = make()

        @daft.method.batch(return_dtype=one, batch_size=workers.batch_size)
        def pictures(self, where: Any) -> pa.Array:
            return self.worker.pictures(where.to_pylist(), None)

        @daft.method.batch(return_dtype=one, batch_size=workers.batch_size)
        def contents(self, where: Any, data: Any) -> pa.Array:
            return self.worker.pictures(where.to_pylist(), data.to_pylist())

        @daft.method.batch(return_dtype=many, batch_size=1)
        def shards(self, where: Any) -> pa.Array:
            found = [self.worker.nothing("path")]
            for address in where.to_pylist():
                name = address.rsplit("/", 1)[-1]
                with reading(address) as file:
                    found.append(self.worker.shard(file, name))
            ends = np.cumsum([len(rows) for rows in found])  # one batch has one archive, or none
            return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.concat_arrays(found))

    how = {"max_concurrency": workers.count} if workers.apart else {"use_process": False}
    judge = daft.cls(Judge, gpus=workers.gpus, **how)()
    if source.unit == "shard":
        rows = judge.shards(col(WHERE))
    elif fetched:
        got = download(col(WHERE), max_connections=CONNECTIONS, on_error="null", io_config=io)
        frame, rows = frame.with_column(DATA, got), judge.contents(col(WHERE), col(DATA))
    else:
        rows = judge.pictures(col(WHERE))
    return frame.select(col(source.unit), *(col(name) for name in source.own), rows.alias(ROWS))


def _flat(table: pa.Table, source: Source, opener: Opener) -> pa.Table:
    """Return rows of the engine with a column for each field: one row a picture."""
    rows = table[ROWS].combine_chunks()
    arrays = {source.unit: table[source.unit], **{name: table[name] for name in source.own}}
    if source.unit == "shard":
        arrays = {"shard": table["shard"].take(rows.value_parent_indices())}
        rows = rows.flatten()
    found = {field.name: rows.field(place) for place, field in enumerate(rows.type)}
    arrays = {**found, **arrays}
    order = columns_of(source, opener)[: len(arrays)]
    kinds = {**opener.columns, **SAID, "path": pa.string(), "shard": pa.string()}
    made = [arrays[name].cast(kinds[name]) if name in kinds else arrays[name] for name in order]
    return pa.table(dict(zip(order, made, strict=True)))


def columns_of(source: Source, opener: Opener) -> list[str]:
    """Return the columns of the results, those that are the same in all rows aside."""
    shard = ["shard"] if source.unit == "shard" else []
    return ["path", *opener.columns, *SAID, *shard, *source.own]


@dataclass(frozen=True)
class Totals:
    """What all parts hold: pictures, those that could not be read, those that are OOD.

    below: p-value -> number of pictures with it, for `cut`.
    """

    pictures: int
    unread: int
    ood: int
    below: dict[float, int]

    def cut(self, rate: float, calibration: int) -> float:
        """Return the p-value up to which a picture is OOD, so that at most `rate` of these are ID on average.

        Benjamini and Hochberg (1995) over all pictures that were judged; 0 if none is. calibration: number of
        images that the p-values come from, which are one of that number plus one: so counts of each suffice.
        InputError for a rate that they do not allow (`check_rate`).
        """
        check_rate(rate, calibration)
        judged, seen, best = self.pictures - self.unread, 0, 0.0
        for p, count in sorted(self.below.items()):
            seen += count
            if p * (judged / seen) <= rate * (1 + ROUNDING):  # as `discoveries` does
                best = p
        return best


def totals(parts: Parts) -> Totals:
    """Count what the parts hold, in one pass over two columns."""
    scored = "p_value" in parts.columns
    frame = parts.done("reason", *(["p_value", "is_ood"] if scored else []))
    if frame is None:
        return Totals(0, 0, 0, {})
    col = engine().col
    by = [col("reason").is_null().alias("read"), *([col("p_value"), col("is_ood")] if scored else [])]
    with said_once(parts.out):
        counted = frame.select(*by).groupby(*(one.name() for one in by)).agg(col("read").count().alias("n"))
        rows = counted.to_pylist()
    below: dict[float, int] = {}
    for row in rows:
        if row["read"] and scored:
            below[row["p_value"]] = below.get(row["p_value"], 0) + row["n"]
    pictures, unread = (sum(row["n"] for row in rows if not row["read"] or all) for all in (True, False))
    return Totals(pictures, unread, sum(row["n"] for row in rows if row.get("is_ood")), below)
