"""Your own pictures: a folder (flat, or one folder per class), or a list of paths (see `lists`).

A folder may have folders of splits, a list a column: near and far sets take test pictures, auxiliary ones
train, tuning ones validation (and train). Without splits, ID and tuning sets are cut by seed, and others take
every picture. What is not taken is counted, by reason, in the notes of what is recorded.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.crops import file_of
from sslood.data.sets.images import read_bytes
from sslood.data.sets.kinds import what_is
from sslood.data.sets.layout import Layout, lay_out, splits_for
from sslood.data.sets.lists import SUFFIXES, PictureList, read_list
from sslood.data.sets.pictures import Splits, digest
from sslood.data.sets.roles.roles import SPLITS, Role
from sslood.data.sets.tree import Scan, class_of, labelled, say_left, scan, twins


def read_user_images(name: str, place: Path, role: Role) -> tuple[Splits, dict[str, Any]]:
    """Return the splits of set `name` in folder or list `place`, and what is recorded of its origin.

    The key "" holds pictures without a split: all of them, whatever the role. Raises InputError for a place
    that does not exist, is neither folder nor list, or does not hold what the role needs.
    """
    if os.path.isdir(place):  # (Path's own methods fail for a name that is too long)
        return _folder(place, role)
    if os.path.isfile(place) and place.suffix.lower() in SUFFIXES:
        return _list(place, role)
    raise InputError(f"set {name!r}: {missing(place)}; correct `sets.{name}.folder` in params.yaml")


def missing(place: Path) -> str:
    """Say what is wrong with a place that is neither a folder nor a list; relative ones in full."""
    about = f"{str(place.absolute())!r} {what_is(place)}"
    if not os.path.lexists(place):
        above = next(parent for parent in place.absolute().parents if os.path.isdir(parent))
        lost = place.absolute().relative_to(above).parts[0]
        try:
            with os.scandir(above) as entries:
                near = get_close_matches(lost, [entry.name for entry in islice(entries, 2000)], n=1)
        except OSError:
            near = []
        about += f" (did you mean {str(above / near[0])!r}?)" if near else ""
        about += "" if place.is_absolute() else " (a relative path starts in the folder of the run)"
    elif os.path.isfile(place):
        about += f"; a folder is needed, or a list that ends in {', '.join(SUFFIXES[:-1])}"
    return about


def _folder(place: Path, role: Role) -> tuple[Splits, dict[str, Any]]:
    found = scan(place)
    found.check_any()
    source: dict[str, Any] = {
        "folder": place.name,
        "sha256": digest(list(map(found.path, found.places)), place),
    }
    layout = lay_out(found.places, place)
    use, notes = splits_for(role, layout.names, place) if layout.names else ({"": ""}, [])
    left = found.left
    same = twins(found)
    _check_twins(found, same, layout, role)
    kept = {split: [row for row in layout.splits[there] if row not in same] for split, there in use.items()}
    left["the same file under another name"] = len(same)
    for split, rows in layout.splits.items():
        if split not in use.values():
            left[f"in {layout.names[split]}, which this role does not use"] = len(rows)
    splits = _classed(place, found, layout.rest, kept, role)
    return splits, _recorded(source, layout.names, use, notes, +left, sum(map(len, kept.values())))


def _classed(
    place: Path, found: Scan, rest: Sequence[tuple[str, ...]], kept: Mapping[str, list[int]], role: Role
) -> Splits:
    """Return the pictures of each split by the positions `kept`; their first folder is their class."""
    names = {split: [class_of(rest[row]) for row in rows] for split, rows in kept.items()}
    classes = tuple(sorted(set().union(*names.values()) - {""}))
    if role.is_labelled and classes:
        for split, of in names.items():
            if "" in of:
                loose = found.path(found.places[kept[split][of.index("")]])
                raise InputError(
                    f"{loose}: is in no class folder, though others are; put it into one, or take it out"
                )
            if lacking := sorted(set(classes) - set(of)):
                raise InputError(
                    f"{place}: {', '.join(kept)} hold different class folders, {split} lacks "
                    f"{', '.join(lacking)}; they must be the same"
                )
    return {
        split: labelled((found.path(found.places[row]) for row in rows), names[split], classes)
        for split, rows in kept.items()
    }


def _check_twins(found: Scan, same: Mapping[int, int], layout: Layout, role: Role) -> None:
    """Raise InputError for one picture in two splits, or in two classes of a set with classes."""
    split = {row: name for name, rows in layout.splits.items() for row in rows} if same else {}
    for row, first in same.items():
        places = [found.places[first], found.places[row]]
        classes = {class_of(layout.rest[first]), class_of(layout.rest[row])}
        if split[row] != split[first] or (role.is_labelled and len(classes) > 1):
            here, there = (found.path(place) for place in places)
            kind = "splits" if split[row] != split[first] else "classes"
            raise InputError(f"{there}: the same picture as {here}, so it is in two {kind}; keep one")


def _list(place: Path, role: Role) -> tuple[Splits, dict[str, Any]]:
    """Read a list. Classes are its labels, sorted (as numbers where all are)."""
    listed = read_list(place)
    rows = listed.rows
    texts = [row.get("label", "") for row in rows]
    names = set(texts) - {""}
    classes = tuple(sorted(names, key=_by_number if all(n.isdecimal() for n in names) else str))
    if role.is_labelled and names and "" in texts:
        row = listed.numbers[texts.index("")]
        raise InputError(f"{place}, row {row}: an ID set needs a label in every row, or in none")
    pictures = labelled(listed.paths, texts, classes)
    source = {"list": place.name, "sha256": _digest(listed)}
    if "split" not in rows[0]:
        return {"": pictures}, source
    column = np.array([row["split"] for row in rows])
    there = {split: split for split in SPLITS if split in column}
    for split in role.needed:
        if split not in there and {"test": "validation", "validation": "train"}.get(split) not in there:
            raise InputError(f"{place}: no row has split {split!r}; add some, or leave the column out")
    use, notes = splits_for(role, there, place)
    splits = {split: pictures.take(np.flatnonzero(column == of)) for split, of in use.items()}
    unused = {split: int((column == split).sum()) for split in there if split not in use.values()}
    left = Counter({f"of split {split}, which this role does not use": n for split, n in unused.items()})
    return splits, _recorded(source, there, use, notes, left, sum(len(s.labels) for s in splits.values()))


def _by_number(text: str) -> tuple[int, str]:
    return int(text), text


def _digest(listed: PictureList) -> str:
    """Return one sha256 over rows and contents (a file that cannot be read counts as missing)."""
    total = hashlib.sha256()
    for row, path in zip(listed.rows, listed.paths, strict=True):
        try:
            content = hashlib.sha256(read_bytes(file_of(path))).hexdigest()
        except OSError:
            content = "missing"
        total.update(f"{chr(0).join(row.values())}\0{content}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _recorded(
    source: dict[str, Any],
    names: Mapping[str, str],
    use: Mapping[str, str],
    notes: list[str],
    left: Mapping[str, int],
    taken: int,
) -> dict[str, Any]:
    """Return what is recorded of an origin: also its splits if they are called otherwise, and the notes."""
    if any(split != names.get(there, split) for split, there in use.items()):
        source["splits"] = {split: names[there] for split, there in use.items()}
    if left:
        source["not_taken"] = dict(sorted(left.items()))
        total = taken + sum(left.values())
        notes = [*notes, f"{total - taken} of {total} files are not taken: {say_left(left)}"]
    return source | ({"notes": notes} if notes else {})
