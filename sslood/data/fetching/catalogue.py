"""What is known about image sets: catalogue.yaml as typed records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sslood.core.errors import InputError

ROLES = ("id", "near", "far", "tuning", "auxiliary", "transfer")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML has it, is ten times as fast
_FILE = Path(__file__).with_name("catalogue.yaml")


@dataclass(frozen=True)
class Published:
    """One file as its publisher offers it.

    `sources` are addresses in the order they are tried. `folders` are the places where a mirror may
    keep the unpacked content instead; `split` says that only that split needs the file ("" = all).
    `inside` is the folder within the archive that the reader is given. `content` is the sha256 of what a
    .gz file holds: recompressed copies are accepted by it. `installed` are folders of this machine where a
    system's package puts the file.
    """

    name: str
    sources: tuple[str, ...]
    md5: str = ""
    sha256: str = ""
    size: int = 0
    split: str = ""
    inside: str = ""
    folders: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()
    content: str = ""
    installed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One image set. `options` goes to the reader as it stands; `counts` are images per split, `per_class`
    those of each class (one number: all have as many). `groups`: near, far or auxiliary beside which ID
    sets. `overlaps`: what is known to be shared with another set."""

    name: str
    description: str
    reader: str
    licence: str
    citation: str
    counts: Mapping[str, int]
    published: tuple[Published, ...]
    options: Mapping[str, Any]
    native: int  # side of the images as published, 0 where it varies
    per_class: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    overlaps: Mapping[str, str] = field(default_factory=dict)


def _published(values: Mapping[str, Any]) -> Published:
    lists = {
        key: tuple(values[key]) for key in ("sources", "folders", "mirror", "installed") if key in values
    }
    return Published(**{**values, **lists})


def load_catalogue(path: Path = _FILE) -> dict[str, Entry]:
    """Return name -> Entry for every set of the catalogue, in its order."""
    content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    return {
        name: Entry(
            name=name,
            description=values["description"],
            reader=values["reader"],
            licence=values["licence"],
            citation=values["citation"],
            counts=values.get("counts", {}),
            published=tuple(_published(file) for file in values.get("files", ())),
            options=values.get("options", {}),
            native=values.get("native", 0),
            **{key: values.get(key, {}) for key in ("per_class", "groups", "overlaps")},
        )
        for name, values in content.items()
    }


def find_entry(name: str, catalogue: Mapping[str, Entry]) -> Entry:
    """Return the record of set `name`; InputError names the known sets and the way to use a folder."""
    if name not in catalogue:
        raise InputError(
            f"unknown set {name!r}; known: {', '.join(sorted(catalogue))}; for pictures of your own "
            f"give it a folder: sets: {{{name}: {{role: far, folder: path/to/pictures}}}}"
        )
    return catalogue[name]
