"""Which split each picture of a folder or list is in, by the usual names, whatever their case.

Folders of splits may hold the class folders (train/cat), lie in them (cat/train), or below one folder that
holds all (pictures/train/cat).
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sslood.core.errors import InputError
from sslood.data.sets.roles.roles import Role
from sslood.data.sets.tree import Parts

_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "tests", "tst"),
}
_NAMES = {word: split for split, words in _WORDS.items() for word in words}
_FILLING = {"", "set", "data", "dataset", "image", "images", "img", "imgs", "pictures", "split", "seg"}


def split_of(name: str) -> str:
    """Return the split that a name such as Training_set or val2017 means, "" if it means none."""
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word not in _FILLING]
    whole = re.fullmatch(r"(\w+?)(set|data|images)", words[0]) if len(words) == 1 else None
    return _NAMES.get(whole[1] if whole else words[0], "") if len(words) == 1 else ""


@dataclass(frozen=True)
class Layout:
    """How the splits of a folder are laid out.

    names: split -> name of its folders, none if there are no splits. splits: split ("" without) -> positions
    of its pictures. rest: the parts of every picture's path without those of its split and of what is above.
    """

    names: Mapping[str, str]
    splits: Mapping[str, list[int]]
    rest: Sequence[Parts]


def lay_out(places: Sequence[Parts], where: object) -> Layout:
    """Return the layout of a folder from the places of its pictures.

    Raises InputError, beginning with `where`, for one that can be read in two ways.
    """
    above = 0
    while places:
        below = [parts[above:] for parts in places]
        level = _level(below, where)
        if level is not None:
            return _cut(places, below, level)
        if any(len(parts) < 3 for parts in below) or len({parts[0] for parts in below}) > 1:
            break
        above += 1  # one folder holds everything: its splits may be inside
    return Layout({}, {"": list(range(len(places)))}, places)


def _cut(places: Sequence[Parts], below: list[Parts], level: int) -> Layout:
    names: dict[str, str] = {}
    splits: dict[str, list[int]] = defaultdict(list)
    for position, parts in enumerate(below):
        split = split_of(parts[level])
        names.setdefault(split, parts[level])
        splits[split].append(position)
    return Layout(names, splits, [parts[:level] + parts[level + 1 :] for parts in below])


def _level(places: list[Parts], where: object) -> int | None:
    """Return at which level of the places the splits are: 0, 1 or none."""
    inner: dict[str, set[str]] = defaultdict(set)  # folder -> folders in it; "" for pictures in it
    for parts in places:
        inner[parts[0] if len(parts) > 1 else ""].add(parts[1] if len(parts) > 2 else "")
    splits = {name: split_of(name) for name in inner}
    named = [name for name in inner if splits[name]]
    if named:
        return _top_level(inner, splits, named, where)
    parted = {name: _splits_in(folders) for name, folders in inner.items()}
    whole = [name for name, folders in inner.items() if name and all(map(split_of, folders))]
    if len(whole) == len(inner) == 1 and any(len(parts) > 3 for parts in places):
        return None  # not a class, but one folder that holds all
    if len(whole) == len(inner):
        for name, folders in inner.items():
            _check_once(folders, f"{where}/{name}")
        return 1
    doubtful = [name for name, found in parted.items() if len(found) > 1]
    if doubtful:
        other = next(name for name in inner if name not in whole)
        raise _ambiguous(f"{where}/{doubtful[0]}", parted[doubtful[0]], other or "loose pictures")
    return None


def _top_level(
    inner: Mapping[str, set[str]], splits: Mapping[str, str], named: list[str], where: object
) -> int | None:
    others = [name for name in inner if not splits[name]]
    if not others:
        _check_once(named, str(where))
        return 0
    only = named[0]
    shared = any((inner[only] & inner[name]) - {""} for name in others)
    if len(named) == 1 and splits[only] == "train" and not shared:
        return None  # trains, beside buses
    raise _ambiguous(str(where), named, others[0] or "loose pictures")


def _splits_in(folders: Collection[str]) -> list[str]:
    """Return a name for each split that is among the names of folders."""
    return sorted({split_of(name): name for name in sorted(folders) if split_of(name)}.values())


def _check_once(folders: Collection[str], where: str) -> None:
    """Raise InputError if two folders are named after the same split."""
    for split in _WORDS:
        same = sorted(name for name in folders if split_of(name) == split)
        if len(same) > 1:
            raise InputError(
                f"{where}: holds {' and '.join(same)}, which both mean {split}; put them into one folder, or "
                "list the pictures in a CSV file with the columns path, label and split"
            )


def _ambiguous(where: str, splits: Sequence[str], other: str) -> InputError:
    return InputError(
        f"{where}: holds {', '.join(splits)} beside {other}, so that it is not clear whether "
        f"{'this is a split or a class' if len(splits) == 1 else 'these are splits or classes'}; take one "
        "kind out, name one folder alone, or list the pictures in a CSV file with path, label and split"
    )


def splits_for(role: Role, names: Mapping[str, str], where: object) -> tuple[dict[str, str], list[str]]:
    """Return ({split of the role: split as it is laid out}, what there is to say of it).

    names: split -> how it is called there. Where test pictures are needed and there are none, validation
    serves, as is usual; pictures for choosing are cut from train. Raises InputError, beginning with `where`,
    for a split that is needed and missing.
    """
    use, notes = {split: split for split in role.kept if split in names}, []
    if "test" in role.needed and "test" not in names and "validation" in names:
        use.pop("validation", None)
        use["test"] = "validation"
        notes.append(f"no test pictures, so those of {names['validation']!r} serve as test")
    for split in role.needed:
        if split not in use and not (split == "validation" and "train" in use):
            seen = ", ".join(f"{found} ({name!r})" for found, name in names.items())
            raise InputError(
                f"{where}: holds {seen}, but no {split} pictures, which this role needs; add them, or name "
                "the folder inside whose pictures you mean"
            )
    return {split: use[split] for split in role.kept if split in use}, notes
