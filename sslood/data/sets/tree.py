"""A folder of image files: one folder per class, or flat."""

import filecmp
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.names import shown
from sslood.data.sets.kinds import SUFFIXES, reason_not_taken
from sslood.data.sets.pictures import Pictures

_LINKS = 3  # links to folders that may lie within each other; more could branch without end
Parts = tuple[str, ...]  # of the path of a picture below its folder


@dataclass(frozen=True)
class Scan:
    """What is below a folder: the parts of every picture's path, sorted, and why other files are not taken.

    nodes: the number by which the file system knows the file of each picture. left: reason -> count.
    """

    folder: Path
    places: list[Parts]
    nodes: list[int]
    left: Counter[str]

    def path(self, parts: Parts) -> str:
        """Return the path of a picture."""
        return os.path.join(self.folder, *parts)

    def check_any(self) -> None:
        """Raise InputError if there is no picture; it says what is there instead."""
        if not self.places:
            there = f" ({say_left(self.left)})" if self.left else "; it is empty"
            raise InputError(f"{self.folder}: no image in it{there}")


def say_left(left: Mapping[str, int]) -> str:
    """Return the counts of files that are not taken in words, the commonest reason first."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left.items(), key=lambda x: (-x[1], x)))


def tree(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Read the only folder of `files`: one folder per class, or flat (labels -1).

    options: `flat: true` ignores inner folders. Raises InputError for a folder without images, or with some
    beside class folders.
    """
    (folder,) = files.values()
    found = scan(folder)
    found.check_any()
    names = [class_of(parts) for parts in found.places]
    classes = () if options.get("flat") or set(names) == {""} else tuple(sorted(set(names)))
    if "" in classes:
        loose = found.path(found.places[names.index("")])
        raise InputError(f"{loose}: lies beside class folders; use either one folder per class or none")
    return labelled(map(found.path, found.places), names, classes)


def class_of(parts: Parts) -> str:
    """Return the class of a picture: its first folder, spelt in one way and fit for any page; "" without."""
    name = parts[0] if len(parts) > 1 else ""
    return name if name.isascii() and name.isprintable() else shown(unicodedata.normalize("NFC", name))


def labelled(paths: Iterable[str], names: Sequence[str], classes: tuple[str, ...]) -> Pictures:
    """Return pictures with the position of their names among `classes` as labels, -1 for other names."""
    position = {name: index for index, name in enumerate(classes)}
    return Pictures(list(paths), np.array([position.get(name, -1) for name in names], np.int64), classes)


def list_images(folder: Path) -> list[str]:
    """Return the path of every image file below `folder` (no hidden ones), sorted."""
    found = scan(folder)
    return [found.path(parts) for parts in found.places]


def scan(folder: Path) -> Scan:
    """Look at every file below `folder`. Raises InputError for an inner folder that cannot be listed."""
    found: dict[Parts, int] = {}
    left: Counter[str] = Counter()
    folders: list[tuple[Parts, tuple[str, ...], int]] = [((), (), 0)]  # with where links led
    while folders:  # (Path objects would be slow)
        inner, above, links = folders.pop()
        where = os.path.join(folder, *inner)
        try:
            here = (*above, os.path.realpath(where)) if links or not inner else above
            with os.scandir(where) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        left["hidden"] += 1
                    elif name[name.rfind(".") :].lower() in SUFFIXES and entry.is_file(follow_symlinks=False):
                        found[(*inner, name)] = entry.inode()  # nearly all files: no more calls
                    elif _is_folder(entry):
                        if not entry.is_symlink():
                            folders.append(((*inner, name), here, links))
                        elif links == _LINKS:
                            left[f"folder behind more than {_LINKS} links"] += 1
                        elif not _leads_back(entry, here):
                            folders.append(((*inner, name), here, links + 1))
                    elif reason := reason_not_taken(entry.path, name):
                        left[reason] += 1
                    else:
                        found[(*inner, name)] = _node(entry)
        except OSError as error:
            raise InputError(f"{where}: cannot be listed ({error.strerror})") from None
    places = sorted(found)
    return Scan(folder, places, [found[parts] for parts in places], left)


def _leads_back(folder: os.DirEntry[str], above: tuple[str, ...]) -> bool:
    """Whether a link leads to a folder that is read anyway: one of the set, or one that contains the link.

    above: the real paths of the set's folder and of those that links have led to from there.
    """
    target = os.path.realpath(folder.path)
    inner = os.path.relpath(target, above[0]).split(os.sep)
    if not any(part.startswith(".") for part in inner):
        return True
    around = (*above, os.path.realpath(os.path.dirname(folder.path)))
    return any(os.path.commonpath((target, path)) == target for path in around)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _node(entry: os.DirEntry[str]) -> int:
    """Return the number of an entry's file, at no cost unless it is a link; 0 for a link to nothing."""
    if not entry.is_symlink():
        return entry.inode()
    try:
        return entry.stat().st_ino
    except OSError:
        return 0


def twins(found: Scan) -> dict[int, int]:
    """Return {position of a picture: position of the first one that is the same file, or as good as}.

    Hard links and links are the same file; so are, if they hold the same bytes, two spellings of one name in
    Unicode, of which a disk that was filled from two systems may have both.
    """
    same: dict[int, int] = {}
    groups: dict[object, list[int]] = defaultdict(list)
    for place, (parts, node) in enumerate(zip(found.places, found.nodes, strict=True)):
        if node:
            groups[node].append(place)
        text = "/".join(parts)
        if not text.isascii():
            groups[unicodedata.normalize("NFC", text)].append(place)
    for first, *others in groups.values():
        for other in others:
            paths = found.path(found.places[first]), found.path(found.places[other])
            try:
                is_same = os.path.samefile(*paths) or (
                    found.nodes[first] != found.nodes[other] and filecmp.cmp(*paths, shallow=False)
                )
            except OSError:
                continue
            if is_same:
                same[other] = same.get(first, first)
    return same
