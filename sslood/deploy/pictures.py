"""Pictures of a folder or list through a scorer, and the table of what it decides."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.core.names import cell, original, path_cell, shown
from sslood.data.sets.bounds import pixel_limit
from sslood.data.sets.convert import UNREADABLE, Chain, converted
from sslood.data.sets.crops import file_of
from sslood.data.sets.images import Remark
from sslood.data.sets.kinds import reason_not_taken
from sslood.data.sets.lists import SUFFIXES, read_list
from sslood.data.sets.notices import warnings_kept
from sslood.data.sets.tree import scan
from sslood.data.sets.user_images import missing
from sslood.deploy.quick.quick import quick
from sslood.deploy.scorer import BATCH, Decisions, Deployed
from sslood.deploy.tables.writing import held, is_parquet, save_columns
from sslood.ood.kit.network_detector import Progress

COLUMNS = ("path", "score", "p_value", "is_ood", "predicted_class")


@dataclass(frozen=True)
class Found:
    """Pictures to score: the path of each, its name for the table, and what a list says of it besides.

    left: files of the folder that are not taken, reason -> count.
    """

    paths: Sequence[Path]
    names: Sequence[str]
    left: Mapping[str, int] = field(default_factory=dict)
    own: Sequence[dict[str, Any]] = ()

    @cached_property
    def places(self) -> dict[Path, int]:
        """The position of each path."""
        return {path: place for place, path in enumerate(self.paths)}


def find_pictures(where: Path) -> Found:
    """Return the pictures of a folder (searched recursively, sorted), of a list, or the one in a file.

    Raises InputError if there is none, and for a faulty list.
    """
    where = Path(os.path.expanduser(where))
    if os.path.isdir(where):
        found = scan(where)
        found.check_any()
        paths = [Path(found.path(parts)) for parts in found.places]
        return Found(paths, ["/".join(parts) for parts in found.places], found.left)
    if os.path.isfile(where) and not reason_not_taken(str(where), where.name):
        return Found([where], [where.name])
    if os.path.isfile(where) and where.suffix.lower() in SUFFIXES:
        listed = read_list(where)
        names = [_listed_name(row["path"], path) for row, path in zip(listed.rows, listed.paths, strict=True)]
        return Found([*map(Path, listed.paths)], names, own=_own_columns(listed.rows))
    raise InputError(f"no such folder, list or picture: {missing(where)}")


def _own_columns(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return what a list has beside `path`; columns that the table has too become list_<name>."""
    names: dict[str, str] = {}
    for column in rows[0]:
        name = column
        while name in (*COLUMNS, "file", *names.values()) or (name != column and name in rows[0]):
            name = f"list_{name}"
        names[column] = name
    return [{names[column]: text for column, text in row.items() if column != "path"} for row in rows]


def _listed_name(text: str, path: str) -> str:
    """Return what a row is called: as the list does, whose paths may be those of a table of scores."""
    name = original(text)
    return name if path.endswith(name) or file_of(path).endswith(name) else text


def chain_of(metadata: Mapping[str, Any]) -> Chain:
    """Return what was done to every picture of the ID set of a model with this metadata."""
    levels = metadata.get("levels")
    square, to = metadata.get("square", "crop"), metadata.get("resize_to")
    how = {"filter": metadata.get("filter", "bilinear"), "resize_to": to}
    return Chain(metadata["size"], metadata["channels"], square, levels and tuple(levels), **how)


def read_pictures(
    paths: Sequence[Path],
    chain: Chain,
    *,
    batch_size: int = BATCH,
    unreadable: list[Path] | None = None,
    remarks: list[tuple[Path, Remark]] | None = None,
    look: Callable[[Path, np.ndarray], None] | None = None,
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yield (paths, uint8 [B, channels, size, size]), converted as all sets are, one batch in memory.

    Raises InputError naming a file that cannot be read; if a list `unreadable` is given, the file is added to
    it and skipped instead. remarks: gets what is to be said of some files, also why they cannot be read.
    look: called with each picture by the thread that read it, of which there are as many as torch has.
    """
    pixel_limit()  # one that is no number stops the whole, whatever is skipped

    def load(path: Path) -> tuple[np.ndarray | None, list[Remark]]:
        said: list[Remark] = []
        try:
            picture = converted(path, chain, said)
        except InputError as error:
            if unreadable is None:
                raise
            return None, [(UNREADABLE, str(error).removeprefix(f"{path}: "))]
        if look is not None:
            look(path, picture)
        return picture, said

    threads = None if look is None else torch.get_num_threads()
    with warnings_kept, ThreadPoolExecutor(threads) as pool:
        parts = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
        waiting = None
        for batch, following in zip(parts, [*parts[1:], []], strict=True):
            loaded = list(zip(batch, pool.map(load, batch) if waiting is None else waiting, strict=True))
            waiting = pool.map(load, following)  # while the network looks at this batch
            arrays = {path: array for path, (array, _) in loaded if array is not None}
            if unreadable is not None:
                unreadable += [path for path, (array, _) in loaded if array is None]
            if remarks is not None:
                remarks += [(path, remark) for path, (_, said) in loaded for remark in said]
            if arrays:
                yield list(arrays), np.stack(list(arrays.values()))


def decide_pictures(
    scorer: Deployed,
    paths: Sequence[Path],
    *,
    batch_size: int = BATCH,
    unreadable: list[Path] | None = None,
    remarks: list[tuple[Path, Remark]] | None = None,
    progress: Progress = lambda count: None,
    keep: Callable[[list[Path], Decisions], None] = lambda paths, decisions: None,
) -> tuple[list[Path], Decisions]:
    """Return (paths of the pictures that could be read, decisions about them).

    Of the pictures one batch is in memory at a time, of the decisions all. `progress` is called with the size
    of each batch, `keep` with what is decided of it. Raises InputError as `read_pictures`, or if none of the
    pictures can be read.
    """
    names: list[Path] = []
    batches: list[Decisions] = []
    reading: dict[str, Any] = {"batch_size": batch_size, "unreadable": unreadable, "remarks": remarks}
    features: dict[Path, np.ndarray] = {}
    if (fast := quick(scorer, len(paths))) is not None:
        reading["look"] = lambda path, picture: features.update({path: fast.look(picture)})
    for read, images in read_pictures(paths, chain_of(scorer.metadata), **reading):
        names += read
        if fast is None:
            batches.append(scorer.decide(images))
        else:
            batches.append(fast.decide(images, np.stack([features.pop(path) for path in read])))
        keep(read, batches[-1])
        progress(len(read))
    if not names:
        raise InputError(f"none of the {len(paths)} pictures can be read; look at {paths[0]}")
    return names, _join(batches)


def _join(batches: Sequence[Decisions]) -> Decisions:
    arrays = {
        key: np.concatenate([getattr(batch, key) for batch in batches])
        for key in ("scores", "p_values", "is_ood")
    }
    return replace(batches[0], **arrays, predicted=[name for batch in batches for name in batch.predicted])


def table_rows(paths: Sequence[Path], decisions: Decisions, found: Found) -> Iterator[dict[str, Any]]:
    """Yield one mapping per picture of `paths`: COLUMNS, the `file` that it is in, and what its list says."""
    place = found.places
    columns = (decisions.scores.tolist(), decisions.p_values.tolist(), decisions.is_ood.tolist())
    for path, *values in zip(paths, *columns, decisions.predicted, strict=True):
        row = dict(zip(COLUMNS, (found.names[place[path]], *values), strict=True)) | {"file": path}
        yield row | (found.own[place[path]] if found.own else {})


class Table:
    """A CSV file of `table_rows`, whose texts no spreadsheet runs; is_ood is true or false."""

    def __init__(self, file: IO[str], found: Found) -> None:
        columns = [*COLUMNS, *(found.own[0] if found.own else ())]
        self.writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        self.writer.writerow({column: cell(column) for column in columns})

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows."""
        for row in rows:
            texts = {key: cell(value) for key, value in row.items() if isinstance(value, str)}
            texts |= {"path": path_cell(row["path"]), "is_ood": "true" if row["is_ood"] else "false"}
            self.writer.writerow(row | texts)


def save_table(path: str | Path, rows: Iterable[dict[str, Any]], found: Found) -> None:
    """Write `table_rows` as a CSV file, or as parquet if that is how `path` ends."""
    if is_parquet(path):
        columns, listed = [*COLUMNS, *(found.own[0] if found.own else ())], list(rows)
        return save_columns(path, {name: [row[name] for row in listed] for name in columns})
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        Table(file, found).add(rows)


@contextmanager
def rows_so_far(out: str | Path, found: Found) -> Iterator[Callable[[list[Path], Decisions], None]]:
    """Yield what keeps the rows of each batch, judged one by one, in the file `out`.partial.

    It goes away if all goes well. Otherwise it stays, and whatever ends the run says so, but for a kill.
    Raises InputError if another run is writing that file.
    """
    partial, count = Path(f"{out}.partial"), 0
    with held(partial):
        with open(partial, "w", newline="", encoding="utf-8") as file:
            table = Table(file, found)

            def keep(paths: list[Path], decisions: Decisions) -> None:
                nonlocal count
                table.add(table_rows(paths, decisions, found))
                file.flush()
                count += len(paths)

            try:
                yield keep
            except BaseException as error:
                if not count:
                    partial.unlink()
                elif isinstance(error, InputError):
                    raise InputError(f"{error}; the {count} rows scored before it are in {partial}") from None
                else:
                    print(shown(f"The {count} rows scored so far are in {partial}."), file=sys.stderr)
                raise
        partial.unlink()
