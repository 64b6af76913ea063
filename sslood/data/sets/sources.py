"""Where pictures come from: published files, scikit-learn, or a folder or list of one's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.fetching.catalogue import Entry
from sslood.data.fetching.fetch import Located, locate
from sslood.data.sets.readers import READERS, Pictures, digest, read_digits
from sslood.data.sets.remake import remade
from sslood.data.sets.synthetic import package_folder
from sslood.data.sets.user_images import SPLITS, read_own

Read = dict[str, Pictures]  # split -> pictures; "" = no split is published


def read_source(name: str, entry: Entry | None, place: Path | None, role: str) -> tuple[Read, dict[str, Any]]:
    """Return the pictures of a set and what is recorded of their origin.

    `place`: folder or CSV file of one's own pictures; else `entry` says what to fetch. An ID set comes as
    train and test (perhaps validation), a near or far one as test, others as what they may be used for
    (see `_wanted`); the key "" holds a set without splits.
    """
    if place is not None:
        return read_own(name, place, role)
    if entry.reader == "digits":
        return _digits()
    return _published(entry, role)


def _wanted(entry: Entry, role: str) -> tuple[str, ...]:
    """Return the published splits that a role uses."""
    if role == "id":
        wanted = [split for split in SPLITS if split in entry.counts] if "train" in entry.counts else []
        lacking = "has only a test split, so it cannot be the ID set; name another in `id`"
    elif role in ("near", "far"):
        wanted = [split for split in ("test",) if split in entry.counts]
        lacking = "is for training and has no test split; give it role auxiliary"
    else:
        wanted, lacking = [split for split in ("train", "test") if split in entry.counts][:1], ""
    if not wanted and "all" not in entry.counts:
        raise InputError(f"set {entry.name!r} {lacking}")
    return tuple(wanted) or ("all",)


def _digits() -> tuple[Read, dict[str, Any]]:
    """Scikit-learn's digits, from the file that it ships."""
    file = package_folder("sklearn", "datasets/data") / "digits.csv.gz"
    checked = {"sha256": digest([file], file.parent), "checked": "shipped with scikit-learn"}
    images, labels = read_digits(file)
    return {"": Pictures(images, labels, tuple("0123456789"))}, {"files": {file.name: checked}}


def _published(entry: Entry, role: str) -> tuple[Read, dict[str, Any]]:
    """Fetch and read the splits of a published set that its role uses."""
    splits = _wanted(entry, role)
    wanted = [file for file in entry.published if not file.split or file.split in splits]
    located = {file.name: locate(entry, file) for file in wanted}
    files = {name: found.path for name, found in located.items()}
    read = {split: READERS[entry.reader](files, split, entry.options) for split in splits}
    if not any(found.checked == "unpacked copy" for found in located.values()):
        _counted(entry, read)
    read = {split: remade(entry.name, pictures, entry.options) for split, pictures in read.items()}
    source = {
        "addresses": [file.sources[0] for file in wanted if file.sources],
        "files": _provenance(located),
    }
    return {"" if split == "all" else split: pictures for split, pictures in read.items()}, source


def _counted(entry: Entry, read: Mapping[str, Pictures]) -> None:
    """Compare with the published numbers of images (an unpacked copy may hold a part of a set)."""
    for split, pictures in read.items():
        count = len(pictures.labels)
        if entry.counts.get(split, count) != count:
            raise InputError(
                f"set {entry.name!r}: {count} {split} images found, "
                f"published are {entry.counts[split]}; fetch it again"
            )
        found = np.bincount(pictures.labels[pictures.labels >= 0], minlength=len(pictures.classes))
        wrong = np.flatnonzero(found != entry.per_class.get(split, found))
        if len(wrong):
            raise InputError(
                f"set {entry.name!r}: {found[wrong[0]]} {split} images of class "
                f"{pictures.classes[wrong[0]]!r} found, which is not the published number; fetch it again"
            )


def _provenance(located: Mapping[str, Located]) -> dict[str, dict[str, str]]:
    """Return the sha256 of every published file, or one over names and contents of its unpacked copy."""
    out = {}
    for name, found in located.items():
        sha256 = found.sha256
        if not sha256:
            paths = sorted(path for path in found.path.rglob("*") if path.is_file())
            sha256 = digest(paths, found.path)
        out[name] = {"sha256": sha256, "checked": found.checked}
    return out
