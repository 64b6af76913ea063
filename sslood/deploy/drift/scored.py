"""Batches of scored pictures: from the tables that `score` writes."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError, as_line
from sslood.core.names import cell, path_cell, shown
from sslood.deploy.calibrated import Calibrated
from sslood.deploy.pictures import Found
from sslood.deploy.scorer import Decisions
from sslood.deploy.tables.arrow import Parquet, parquet_files, texts_of
from sslood.ood.kit.outputs import CHUNK

NAMES = ("path", "id")  # columns that say which picture a row is of
BOX = ("x0", "y0", "x1", "y1")  # and which part of it
_SAME = 1e-6  # p-values further apart are of another detector
_Place = tuple[Path | str, int]  # a file, and the number of a row in it, from 1


@dataclass(frozen=True)
class Scored:
    """Pictures of a batch: what each is called, its score float64 [N], and its class.

    places: int64 [N], position of the predicted class among those with a threshold; None if there are none.
    unread: pictures of the table that have no score, but a reason.
    """

    names: Sequence[str]
    scores: np.ndarray
    places: np.ndarray | None = None
    unread: int = 0


def of_decisions(paths: Sequence[Path], found: Found, decisions: Decisions, calibrated: Calibrated) -> Scored:
    """Return a batch that was just scored, whose pictures are called as in the CSV file that `score` writes.

    paths: of the pictures, which are among those `found`.
    """
    names = []
    for place in (found.places[path] for path in paths):
        row = {**(found.own[place] if found.own else {}), "path": found.names[place]}
        names.append(_name({column: _as_csv(column, text) for column, text in row.items()}))
    rows: list[_Place] = [("the detector", number) for number in range(1, len(names) + 1)]
    return Scored(names, decisions.scores, _places(decisions.predicted, calibrated, rows))


def _name(row: Mapping[str, Any]) -> str:
    """Return which picture a row of a CSV table of `score` is of."""
    return " ".join(str(row[key]) for key in (*NAMES, *BOX) if row.get(key) is not None)


def read_scores(path: Path, calibrated: Calibrated) -> Scored:
    """Return a batch from a table of `score` or `bulk`, CSV or parquet.

    Pictures that `bulk` could not read are left out, and counted. Raises InputError, naming the row or
    listing the columns, if something is missing or no number, and if its p-values are not those of this
    detector.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; write it with `sslood score`")
    needed = ("score", *(() if calibrated.by_class is None else ("predicted_class",)))
    rows = _parquet(path, needed) if parquet_files(path) else _csv(path, needed)
    places: list[_Place] = []
    names: list[str] = []
    scores: list[float] = []
    said: list[float] = []
    classes: list[str] = []
    unread = 0
    for place, row in rows:
        if row["score"] in (None, "") and row.get("reason"):
            unread += 1
            continue
        places.append(place)
        names.append(_name(row))
        scores.append(_number(place, "score", row["score"]))
        if row.get("p_value") is not None:
            said.append(_number(place, "p_value", row["p_value"]))
        if calibrated.by_class is not None:
            classes.append(str(row["predicted_class"]))
    if not names:
        raise InputError(f"{path}: holds no row with a score; score some pictures")
    batch = Scored(names, np.array(scores), _places(classes, calibrated, places), unread)
    if len(said) == len(names):
        _check_same(places, batch, np.array(said), calibrated)
    return batch


def _csv(path: Path, needed: Sequence[str]) -> Iterator[tuple[_Place, Mapping[str, Any]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or [], needed)
            for number, row in enumerate(reader, 1):
                yield (path, number), row
    except (csv.Error, OSError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({as_line(error)}); write it again") from None


def _parquet(path: Path, needed: Sequence[str]) -> Iterator[tuple[_Place, Mapping[str, Any]]]:
    table = Parquet(parquet_files(path))
    _check_columns(path, table.names, needed)
    columns = (*NAMES, *BOX, "score", "p_value", "predicted_class", "reason")
    wanted = [name for name in columns if name in table.names]
    for part, start, found in table.batches(wanted, CHUNK):
        rows = zip(*(texts_of(found[name]) for name in wanted), strict=True)
        for number, values in enumerate(rows, start + 1):
            row = zip(wanted, values, strict=True)
            yield (part, number), {key: _as_csv(key, value) for key, value in row}


def _as_csv(column: str, value: Any) -> Any:
    """Return a value of a parquet table as that of a CSV file, so that a picture has one name in both."""
    if not isinstance(value, str):
        return value
    return path_cell(value) if column == "path" else cell(value)


def _check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    there = shown(", ".join(columns) or "none")
    for name in needed:
        if name not in columns:
            raise InputError(f"{path}: no column {name!r}; write it with `sslood score` (columns: {there})")
    if not {*NAMES} & {*columns}:
        raise InputError(
            f"{path}: neither a column 'path' nor 'id' says which picture a row is of, so that none is "
            f"counted twice; add one (columns: {there})"
        )


def _where(place: _Place) -> str:
    return "{}, row {}".format(*place)


def _number(place: _Place, column: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not np.isfinite(found):
        said = as_line(repr(value), 40)
        raise InputError(f"{_where(place)}: {column} {said} is no finite number; correct or remove the row")
    return found


def _places(classes: Sequence[str], calibrated: Calibrated, rows: Sequence[_Place]) -> np.ndarray | None:
    if calibrated.by_class is None:
        return None
    own = calibrated.by_class.names
    ways = (cell, shown, str)  # of a name in a table, the last one as it is
    place = {way(name): at for way in ways for at, name in enumerate(own)}
    for row, name in zip(rows, classes, strict=True):
        if name not in place:
            raise InputError(
                f"{_where(row)}: predicted_class {as_line(repr(name), 60)} is no class of the detector, "
                "which has a threshold for each; take the scores of this detector"
            )
    return np.array([place[name] for name in classes], np.int64)


def _check_same(rows: Sequence[_Place], batch: Scored, said: np.ndarray, calibrated: Calibrated) -> None:
    found = calibrated.p_values(batch.scores, batch.places)
    if (wrong := np.flatnonzero(np.abs(found - said) > _SAME)).size:
        at = int(wrong[0])
        raise InputError(
            f"{_where(rows[at])}: its p_value is {said[at]:.6g}, but of its score this detector says "
            f"{found[at]:.6g}; take the scores of this detector"
        )
