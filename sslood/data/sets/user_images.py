"""Your own pictures: a folder (flat, or one folder per class), or a CSV file that lists paths.

    path,label,split
    cats/0001.jpg,cat,train
    /elsewhere/x.tif,dog,test

Only `path` is needed: absolute, or relative to the CSV file. `label` is a class name (empty: unknown).
`split` is train, validation or test; near and far sets take their test rows, auxiliary ones train, tuning
ones validation (and train). Without splits, ID and tuning sets are cut by seed, and others take every row. A
folder can hold folders of these names as well.
"""

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.pictures import Pictures, Splits, digest
from sslood.data.sets.roles.roles import SPLITS, Role
from sslood.data.sets.tree import list_images, tree

COLUMNS = ("path", "label", "split")


def read_user_images(name: str, place: Path, role: Role) -> tuple[Splits, dict[str, Any]]:
    """Return the splits of set `name` in folder or CSV file `place`, and what is recorded of its origin.

    The key "" holds pictures without a split: all of them, whatever the role. Raises InputError for a place
    that does not exist, or does not hold what the role needs.
    """
    if place.suffix.lower() == ".csv":
        return _table(name, place, role)
    if not place.is_dir():
        raise InputError(
            f"set {name!r}: folder {str(place)!r} does not exist; correct `sets.{name}.folder` in params.yaml"
        )
    source = {"folder": place.name, "sha256": digest(list_images(place), place)}
    inner = [split for split in SPLITS if (place / split).is_dir()]
    others = {path.name for path in place.iterdir() if path.is_dir()} - set(SPLITS)
    is_class = bool(others) and "test" not in role.needed  # a class called train or validation
    if set(role.needed) <= set(inner) and not is_class:
        read = {split: tree({name: place / split}, split, {}) for split in role.kept if split in inner}
        if len({pictures.classes for pictures in read.values()}) > 1:
            raise InputError(
                f"{place}: {', '.join(read)} hold different class folders; they must be the same"
            )
        return read, source
    pictures = tree({name: place}, "test", {})
    return {"": pictures}, source


def _rows(name: str, place: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as {column: text}; every complaint names the line."""
    if not place.is_file():
        raise InputError(
            f"set {name!r}: list {str(place)!r} does not exist; correct `sets.{name}.folder` in params.yaml"
        )
    try:
        with open(place, newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns = reader.fieldnames or []
            if "path" not in columns or set(columns) - set(COLUMNS) or len(set(columns)) < len(columns):
                raise InputError(
                    f"{place}: the first line is {','.join(columns)!r}; it must name the "
                    "columns: path, and optionally label and split"
                )
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{place}: not a CSV file in UTF-8 ({error})") from None
    if not rows:
        raise InputError(f"{place}: lists no image")
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values() or not row["path"]:
            raise InputError(f"{place}, row {line}: must hold {','.join(columns)}")
        if row.get("split", "test") not in SPLITS:
            raise InputError(f"{place}, row {line}: split is {row['split']!r}; use {', '.join(SPLITS)}")
        first = seen.setdefault(row["path"], line)
        if first != line:
            raise InputError(f"{place}, row {line}: lists {row['path']!r}, as row {first} does; keep one")
    return rows


def _table(name: str, place: Path, role: Role) -> tuple[Splits, dict[str, Any]]:
    """Read a CSV file. Classes are its labels, sorted (as numbers where all are)."""
    rows = _rows(name, place)
    texts = [row.get("label", "") for row in rows]
    names = set(texts) - {""}
    classes = tuple(sorted(names, key=int if all(n.isdecimal() for n in names) else str))
    if role.is_labelled and names and "" in texts:
        raise InputError(
            f"{place}, row {texts.index('') + 2}: an ID set needs a label in every row, or in none"
        )
    position = {label: index for index, label in enumerate(classes)}
    labels = np.array([position.get(text, -1) for text in texts], np.int64)
    paths = [place.parent / row["path"] for row in rows]
    pictures = Pictures(paths, labels, classes)
    source = {"list": place.name, "sha256": _digest(rows, paths)}
    if "split" not in rows[0]:
        return {"": pictures}, source
    column = np.array([row["split"] for row in rows])
    splits = {split: pictures.take(np.flatnonzero(column == split)) for split in SPLITS if split in column}
    for split in role.needed:
        if split not in splits:
            raise InputError(f"{place}: no row has split {split!r}; add some, or leave the column out")
    return {split: splits[split] for split in role.kept if split in splits}, source


def _digest(rows: list[dict[str, str]], paths: list[Path]) -> str:
    """Return one sha256 over rows and contents (a file that does not exist counts as missing)."""
    total = hashlib.sha256()
    for row, path in zip(rows, paths, strict=True):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        total.update(f"{chr(0).join(row.values())}\0{content}\n".encode())
    return total.hexdigest()
