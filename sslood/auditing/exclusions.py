"""Classes that an OOD set shares with the ID set: exclusions.yaml, checked against the set files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.settings import load_params

FILE = Path(__file__).with_name("exclusions.yaml")
_KEYS = {"class", "like", "why"}


def excluded_classes(
    id_set: Mapping[str, Any], ood_set: Mapping[str, Any], path: Path = FILE
) -> dict[str, str]:
    """Return {class of the OOD set: ID class that it is like}, from the metadata of two set files.

    An entry whose ID class is held out is skipped: that class is not in-distribution then. A set without
    class names has none to exclude. Where one of the two holds your own pictures, no list can know them:
    a class of the same name is the same. Raises InputError for a file that is no YAML or has a key twice, a
    list in another form, and an entry that lacks a key or names a class that the OOD or the ID set does not
    have.
    """
    entries = _entries(path, id_set["name"], ood_set["name"])
    where = f"{path.name}, {id_set['name']}: {ood_set['name']}"
    known, heldout = list(id_set["classes"]), list(id_set.get("settings", {}).get("heldout", []))
    own = id_set["name"] != ood_set["name"] and (_is_own(id_set) or _is_own(ood_set))  # no set beside itself
    shared = _same_names(id_set, ood_set) if own else {}
    for entry in entries if ood_set["classes"] else []:
        if not isinstance(entry, Mapping) or set(entry) != _KEYS:
            raise InputError(f"{where}: {entry!r} must have the keys {', '.join(sorted(_KEYS))}")
        if entry["class"] not in ood_set["classes"]:
            raise InputError(_unknown(where, entry["class"], ood_set))
        if entry["like"] not in known + heldout:
            raise InputError(_unknown(where, entry["like"], id_set))
        if entry["like"] in known:
            shared[entry["class"]] = entry["like"]
    return shared


def _entries(path: Path, id_name: str, ood_name: str) -> list[Any]:
    """Return the list of a pair of sets, empty if there is none; InputError if the file has another form."""
    lists = load_params(path)
    for name, where in ((id_name, path.name), (ood_name, f"{path.name}, {id_name}")):
        if not isinstance(lists, Mapping | None):
            raise InputError(f"{where}: must hold keys, the names of sets, and found {lists!r}")
        lists = (lists or {}).get(name)
    if not isinstance(lists, list | None):
        raise InputError(f"{where}: {ood_name}: must be a list, `- ` before each entry, found {lists!r}")
    return lists or []


def _is_own(image_set: Mapping[str, Any]) -> bool:
    """Whether a set comes from a folder or list of the user's."""
    return bool({"folder", "list"} & set(image_set.get("source", {})))


def _same_names(id_set: Mapping[str, Any], ood_set: Mapping[str, Any]) -> dict[str, str]:
    """Return {class of the OOD set: ID class of that name}, whatever their case, spaces and dashes."""
    names = {_plain(name): name for name in id_set["classes"]}
    return {name: names[_plain(name)] for name in ood_set["classes"] if _plain(name) in names}


def _plain(name: str) -> str:
    return " ".join(str(name).casefold().replace("_", " ").replace("-", " ").split())


def _unknown(where: str, name: str, image_set: Mapping[str, Any]) -> str:
    classes = ", ".join(map(str, image_set["classes"]))
    return f"{where}: set {image_set['name']!r} has no class {name!r}; correct the entry; it has {classes}"


def in_excluded_class(
    labels: np.ndarray, ood_set: Mapping[str, Any], excluded: Mapping[str, str]
) -> np.ndarray:
    """Return bool [N]: which images, by their labels [N] (-1 unknown), are of an excluded class."""
    positions = [place for place, name in enumerate(ood_set["classes"]) if name in excluded]
    return np.isin(labels, positions)
