"""Where pictures come from: published files, scikit-learn, or a folder or list of one's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.core.errors import InputError
from stages.data.sets.catalogue import Entry
from stages.data.sets.fetch import Located, locate
from stages.data.sets.own import read_own
from stages.data.sets.readers import READERS, Pictures, digest, read_digits
from stages.data.sets.synthetic import package_folder

Read = dict[str, Pictures]  # split -> pictures; "" = no split is published


def read_source(
    name: str, entry: Entry | None, place: Path | None, *, is_id: bool
) -> tuple[Read, dict[str, Any]]:
    """Return the pictures of a set and what is recorded of their origin.

    `place`: folder or CSV file of one's own pictures; else `entry` says what to fetch. An ID set comes as
    train and test (perhaps validation), any other as test; the key "" holds a set without splits.
    """
    if place is not None:
        return read_own(name, place, is_id=is_id)
    if entry.reader == "digits":
        return _digits()
    return _published(entry, is_id=is_id)


def _digits() -> tuple[Read, dict[str, Any]]:
    """Scikit-learn's digits, from the file that it ships."""
    file = package_folder("sklearn", "datasets/data") / "digits.csv.gz"
    checked = {"sha256": digest([file], file.parent), "checked": "shipped with scikit-learn"}
    images, labels = read_digits(file)
    return {"": Pictures(images, labels, tuple("0123456789"))}, {"files": {file.name: checked}}


def _published(entry: Entry, *, is_id: bool) -> tuple[Read, dict[str, Any]]:
    """Fetch and read a published set: test only, or train and test for the ID set."""
    if is_id and "train" not in entry.counts:
        raise InputError(
            f"set {entry.name!r} has only a test split, so it cannot be the ID set; name another in `id`"
        )
    splits = ("train", "test") if is_id else ("test",)
    wanted = [file for file in entry.published if not file.split or file.split in splits]
    located = {file.name: locate(entry, file) for file in wanted}
    files = {name: found.path for name, found in located.items()}
    read = {split: READERS[entry.reader](files, split, entry.options) for split in splits}
    if not any(found.checked == "unpacked copy" for found in located.values()):
        _counted(entry, read)
    source = {"addresses": [file.sources[0] for file in wanted], "files": _provenance(located)}
    return read, source


def _counted(entry: Entry, read: Mapping[str, Pictures]) -> None:
    """Compare with the published numbers of images (an unpacked copy may hold a part of a set)."""
    for split, pictures in read.items():
        if entry.counts.get(split, len(pictures.labels)) != len(pictures.labels):
            raise InputError(
                f"set {entry.name!r}: {len(pictures.labels)} {split} images found, "
                f"published are {entry.counts[split]}; fetch it again"
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
