"""What is to be judged, as a table for the engine: folder, list, prefix of a store, parquet, tar shards."""

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sslood.core.errors import InputError
from sslood.core.names import path_cell
from sslood.data.sets.crops import COLUMNS
from sslood.data.sets.kinds import HEIF_SUFFIXES, SUFFIXES
from sslood.data.sets.lists import picture_path
from sslood.deploy.engine.daft import below, engine, read_parquet, said_once
from sslood.deploy.engine.worker import SAID, Deciding
from sslood.deploy.pictures import find_pictures

OWN = ("path", *Deciding.columns, *SAID, "features", "logits", "shard", "source", "made_by")  # of the results
WHERE, DATA = "sslood where", "sslood data"  # columns of the engine's table that the results lack
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
Unit = Literal["path", "shard"]


@dataclass(frozen=True)
class Source:
    """A table with the column `unit`, the name of a picture or of an archive, and WHERE, what to open.

    fetched: whether WHERE is an address in a store, not a path. own: the user's columns, which are kept; box:
    those of them that tell boxes of one picture apart. count: of rows. left: files of a folder that are not
    taken, reason -> count.
    """

    name: str
    frame: Any
    unit: Unit
    fetched: bool
    own: tuple[str, ...] = ()
    box: tuple[str, ...] = ()
    count: int = 0
    left: Mapping[str, int] = field(default_factory=dict)


def open_source(images: str, column: str, io: Any) -> Source:
    """Return what `images` names. column: of a parquet table, with paths or addresses.

    Raises InputError if there is nothing there, for a table without the column (it lists those that there
    are), with rows that lack a path, or with a path twice; for a store that cannot be read.
    """
    remote, lower = "://" in images, images.lower().rstrip("*")
    if lower.endswith(".parquet"):
        return _parquet(images, column, io)
    if lower.endswith(TARS):
        found = matching(images, io)
        return Source(images, _frame({"shard": found, WHERE: found}), "shard", remote, count=len(found))
    return _prefix(images, io) if remote else _local(Path(images))


def _frame(columns: dict[str, list[str]]) -> Any:
    return engine().from_pydict(columns)


def _local(where: Path) -> Source:
    """Return the pictures of a folder or list as `score` finds and names them."""
    found = find_pictures(where)
    columns: dict[str, list[Any]] = {
        "path": [*map(path_cell, found.names)],
        WHERE: [path_cell(os.path.abspath(path)) for path in found.paths],
    }
    own = tuple(found.own[0]) if found.own else ()
    named = {name: _free(name) for name in own}
    columns |= {named[name]: [row[name] for row in found.own] for name in own}
    box = COLUMNS if {*COLUMNS} <= {*own} else ()
    about: dict[str, Any] = {"box": box, "count": len(found.paths), "left": found.left}
    return Source(str(where), _frame(columns), "path", False, tuple(named.values()), **about)


def _free(name: str) -> str:
    """Return the name of a user's column beside those of the results."""
    while name in (*OWN, WHERE, DATA):
        name = f"list_{name}"
    return name


def _prefix(address: str, io: Any) -> Source:
    """Return the pictures below a prefix of a store, by their endings; hidden ones are left out.

    They are listed once: a store may grow while a run is at work.
    """
    pattern = address if any(mark in address for mark in "*?[") else f"{address.rstrip('/')}/**"
    col, frame = engine().col, below(pattern, io)
    if frame is None:
        raise InputError(f"{address}: nothing is below it; correct the address")
    with said_once(address):
        endings = "|".join(ending[1:] for ending in (*sorted(SUFFIXES), *HEIF_SUFFIXES))
        # a part that begins with a dot is hidden, as in a folder
        frame = frame.where(col("path").regexp(rf"(?i)\.({endings})$") & ~col("path").regexp(r"/\.[^/]*"))
        frame = frame.select("path").collect()
    if not (count := len(frame)):
        raise InputError(f"{address}: no picture below it")
    return Source(address, frame.with_column(WHERE, col("path")), "path", True, count=count)


def matching(pattern: str, io: Any) -> list[str]:
    """Return the files that a path, an address or a pattern of them names, sorted; InputError if none."""
    if "://" in pattern:
        matched = below(pattern, io)
        found = [] if matched is None else matched.to_pydict()["path"]
    else:
        pattern = os.path.expanduser(pattern)
        found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        found = [os.path.abspath(path) for path in found]
    if not found:
        raise InputError(f"{pattern}: no such file; correct the path or the pattern")
    return sorted(found)


def _parquet(pattern: str, column: str, io: Any) -> Source:
    files = matching(pattern, io)
    col = engine().col
    with said_once(pattern):
        frame = read_parquet(files, io)
        names = frame.column_names
        if column not in names:
            raise InputError(
                f"{pattern}: has no column {column!r}; its columns are {', '.join(names)}: name that of the "
                "paths by --column"
            )
        frame = frame.select(
            col(column).cast(engine().DataType.string()).alias("path"),
            *(col(name).alias(_free(name)) for name in names if name != column),
        )
        count = frame.count_rows()
        if lacking := frame.where(col("path").is_null()).count_rows():
            raise InputError(f"{pattern}: {lacking} of {count} rows have no {column!r}; take them out")
        twice = frame.groupby("path").agg(col("path").count().alias("n")).where(col("n") > 1).limit(1)
        for row in twice.to_pylist():
            raise InputError(f"{pattern}: lists {row['path']!r} {row['n']} times; keep one row of it")
        first = frame.select("path").limit(1).to_pydict()["path"]
    if not first:
        raise InputError(f"{pattern}: lists no picture")
    fetched = "://" in first[0]
    mixed = frame.where(col("path").contains("://") != fetched).limit(1).to_pydict()["path"]
    if mixed:
        raise InputError(
            f"{pattern}: holds paths and addresses ({first[0]!r}, {mixed[0]!r}); list them apart"
        )
    where = col("path") if fetched else _local_paths(Path(files[0]).parent)(col("path"))
    own = tuple(_free(name) for name in names if name != column)
    return Source(pattern, frame.with_column(WHERE, where), "path", fetched, own, count=count)


def _local_paths(folder: Path) -> Any:
    """Return what makes of listed paths those that a worker opens; relative ones start at the table."""
    daft = engine()

    @daft.func.batch(return_dtype=daft.DataType.string())
    def located(paths: Any) -> list[str]:
        return [path_cell(os.path.abspath(picture_path(folder, text))) for text in paths.to_pylist()]

    return located
