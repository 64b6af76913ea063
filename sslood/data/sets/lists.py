"""Lists of pictures: a table (CSV; also with tabs or semicolons), or lines `path label`.

    path,label,split                      cats/0001.jpg cat
    cats/0001.jpg,cat,train               /elsewhere/x.tif dog
    /elsewhere/x.tif,dog,test

A table names its columns in the first line: path, and optionally label, split and columns of your own.
With x0, y0, x1 and y1 each row is a box of its picture (`sslood.data.sets.crops`).
"""

import csv
import io
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sslood.core.errors import InputError
from sslood.core.names import original, shown
from sslood.data.sets import crops
from sslood.data.sets.crops import box_of, split_box, with_box
from sslood.data.sets.layout import split_of

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".lst", ".list")
COLUMNS = ("path", "label", "split")
_MEANT = {  # what else these columns are called
    "path": ("paths", "file", "filename", "filepath", "image", "img", "picture", "name"),
    "split": ("subset", "set", "partition", "phase", "fold", "usage"),
}
_EDGES = dict(zip(("xmin", "ymin", "xmax", "ymax"), crops.COLUMNS, strict=True))
_MOST = 1 << 30  # bytes of a list


@dataclass(frozen=True)
class PictureList:
    """Rows of a list as {column: text}, the path of each row's picture or box, each row's number there."""

    rows: Sequence[Mapping[str, str]]
    paths: Sequence[str]
    numbers: Sequence[int]


def read_list(place: Path) -> PictureList:
    """Read a list; relative paths start at its folder.

    A path may also be as `scores.csv` writes it, begin with ~, or be spelt in another form of Unicode or with
    backslashes: what exists is taken. Raises InputError, naming the row, for a row that lacks something, and
    for a picture (or a box of one) that is listed twice, by whatever names.
    """
    text = _text(place)
    table = _table(place, text)
    if table is None and place.suffix.lower() in (".csv", ".tsv", ".tab"):
        raise _columns_missing(place, text)
    numbered = _lines(place, text) if table is None else table
    if not numbered:
        raise InputError(f"{place}: lists no image")
    rows = list(numbered.values())
    boxes = _boxes(place, numbered)
    paths = [
        with_box(picture_path(place.parent, row["path"]), box) for row, box in zip(rows, boxes, strict=True)
    ]
    listed = PictureList(rows, paths, list(numbered))
    _check_once(place, listed)
    return listed


def _boxes(place: Path, numbered: "Numbered") -> list[crops.Box | None]:
    """Return the box of each row; None for each if there are no columns of boxes."""
    columns = next(iter(numbered.values())).keys()
    there = [column for column in crops.COLUMNS if column in columns]
    if len(there) < len(crops.COLUMNS):
        for column in there:
            lacking = ", ".join(one for one in crops.COLUMNS if one not in there)
            raise InputError(
                f"{place}: has a column {column} but no {lacking}; boxes need all four, or rename it"
            )
        return [None] * len(numbered)
    return [box_of(row, f"{place}, row {number}") for number, row in numbered.items()]


def _text(place: Path) -> str:
    if place.stat().st_size > _MOST:
        raise InputError(f"{place}: too large for a list of pictures; name the folder, or a shorter list")
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not a list in UTF-8 ({error}); save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{place}: not a list of pictures, it holds NUL bytes")
    return text


Numbered = dict[int, dict[str, str]]  # number of a row in the file -> {column: text}


def _table(place: Path, text: str) -> Numbered | None:
    """Return the rows of a table, or None if no delimiter makes a column `path` of the first line."""
    for delimiter in ",;\t":
        lines = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        try:
            columns = [_column(name) for name in next(lines, [])]
            if "path" not in columns:
                continue
            if len(set(columns)) < len(columns) or "" in columns:
                raise InputError(f"{place}: the first line names a column twice, or one without a name")
            rows = {number: line for number, line in enumerate(lines, start=2) if line}
        except csv.Error as error:
            raise InputError(f"{place}: not a CSV file in UTF-8 ({error})") from None
        for number, line in rows.items():
            if len(line) != len(columns) or not line[columns.index("path")]:
                raise InputError(f"{place}, row {number}: must hold {','.join(columns)}")
        table = {number: dict(zip(columns, line, strict=True)) for number, line in rows.items()}
        _check_meant(place, list(table.values()), columns)
        return {number: _normal(place, number, row) for number, row in table.items()}
    return None


def _column(name: str) -> str:
    return name.strip().lower() if name.strip().lower() in (*COLUMNS, *crops.COLUMNS) else name.strip()


def _columns_missing(place: Path, text: str) -> InputError:
    first = text.split("\n", 1)[0].strip()[:200]
    words = [word.strip().lower() for word in first.replace(";", ",").replace("\t", ",").split(",")]
    meant = next((word for word in words if word in _MEANT["path"]), "")
    hint = f" (call {meant!r} path)" if meant else ""
    return InputError(
        f"{place}: the first line is {first!r}; it must name the columns: path, and optionally label and "
        f"split{hint}"
    )


def _check_meant(place: Path, table: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Raise InputError for a column of one's own that was meant as one of those: it would be ignored."""
    for name in (name for name in columns if name not in COLUMNS):
        near = get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.7)
        near = ["split"] if name.lower() in _MEANT["split"] and _holds_splits(table, name) else near
        if near and near[0] not in columns:
            raise InputError(f"{place}: column {name!r} must be called {near[0]}, or anything less like it")
        if name.lower() in _EDGES:
            raise InputError(
                f"{place}: column {name!r} must be called {_EDGES[name.lower()]}, if it is of boxes"
            )


def _holds_splits(table: Sequence[Mapping[str, str]], column: str) -> bool:
    return bool(table) and all(split_of(row[column]) for row in table)


def _normal(place: Path, number: int, row: dict[str, str]) -> dict[str, str]:
    """Return a row with its label in one spelling, and its split by one name."""
    if "label" in row:
        row["label"] = label(row["label"])
    if "split" in row:
        split = split_of(row["split"])
        if not split:
            raise InputError(
                f"{place}, row {number}: split is {row['split']!r}; use train, validation or test"
            )
        row["split"] = split
    return row


def label(text: str) -> str:
    """Return a class name in one spelling, and fit for any page."""
    return shown(unicodedata.normalize("NFC", text.strip()))


def _lines(place: Path, text: str) -> Numbered:
    """Read lines `path`, or `path label`: what follows the last space or tab, unless all of it is a path."""
    rows = {}
    for number, line in enumerate(map(str.strip, re.split("\r\n|\r|\n", text)), start=1):
        if not line or line.lower().split() == ["path", "label"]:
            continue
        head, _, tail = line.rpartition("\t") if "\t" in line else line.rpartition(" ")
        whole = not head or os.path.lexists(picture_path(place.parent, line))
        rows[number] = {"path": line, "label": ""} if whole else {"path": head.strip(), "label": label(tail)}
    paths = [row["path"] for row in rows.values()]
    if paths and not any(os.path.lexists(picture_path(place.parent, path)) for path in paths):
        raise InputError(
            f"{place}: a list of pictures has lines `path` or `path label`, but there is no file "
            f"{paths[0]!r}, nor any other that it names, below {place.parent.absolute()}"
        )
    return rows


def picture_path(folder: Path, text: str) -> str:
    """Return the path of a listed picture: of its spellings the one that exists, else as it is written."""
    plain = os.path.join(folder, text)
    if os.path.lexists(plain) or "\0" in text:
        return plain
    file, box = split_box(text)
    if box is not None:
        return with_box(picture_path(folder, file), box)
    spellings = (
        *(unicodedata.normalize(form, text) for form in ("NFC", "NFD")),
        *(os.path.expanduser(text), text.strip(), original(text), text.replace("\\", "/")),
    )
    paths = (os.path.join(folder, spelling) for spelling in spellings)
    return next((path for path in paths if "\0" not in path and os.path.lexists(path)), plain)


def _check_once(place: Path, listed: PictureList) -> None:
    """Raise InputError for a picture or box that is listed twice, or one that is no regular file."""
    seen: dict[object, tuple[int, str]] = {}
    for row, path, number in zip(listed.rows, listed.paths, listed.numbers, strict=True):
        file, box = split_box(path)
        keys: list[object] = [(unicodedata.normalize("NFC", os.path.abspath(file)), box)]
        try:
            about = os.stat(file)
        except (OSError, ValueError):
            pass  # whoever reads the picture decides what that means
        else:
            if not stat.S_ISREG(about.st_mode):
                kind = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file"
                raise InputError(f"{place}, row {number}: {row['path']!r} is {kind}; name a picture")
            keys.append((about.st_dev, about.st_ino, box))
        for key in keys:
            first, other = seen.setdefault(key, (number, row["path"]))
            if first != number:
                same = "" if other == row["path"] else f", where it is called {other!r}"
                raise InputError(
                    f"{place}, row {number}: lists {row['path']!r}, as row {first} does{same}; keep one"
                )
