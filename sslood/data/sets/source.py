"""Sources of images, found by name: a file of sslood/data/sources defines one, as SOURCE.

Adding a file there adds a source and changes no stage that exists. Its docstring's first line is what
`python -m stages.download --list` says of it.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from sslood.core.discovery import names_in
from sslood.core.errors import InputError
from sslood.core.settings import Settings, at_least, near, strict
from sslood.data.sets.pictures import Splits
from sslood.data.sets.roles.roles import Role

PACKAGE = "sslood.data.sources"


@dataclass(frozen=True)
class SetSettings(Settings):
    """One entry of the section `sets`."""

    role: Annotated[str, "id, near, far, tuning, auxiliary, mixing, transfer or shifted"]
    source: Annotated[str, "where the images come from: the name of a file in sslood/data/sources"]
    derive: Annotated[
        Literal["heldout", "corruptions", "common_corruptions"] | None,
        "made from the ID set: the classes held out of it, distortions of its train and validation images, "
        "or its test images under noise, blur and the like",
    ] = None
    folder: Annotated[
        str | None, "source folder: a folder of pictures, or a list of them (CSV, or lines of text)"
    ] = None
    skip_unreadable: Annotated[bool, "leave out, and list, pictures that cannot be decoded"] = False
    raster: Annotated[
        int, at_least(0), "source letters: pixels of the square they are drawn in, 0 = data.size"
    ] = 0

    @property
    def place(self) -> Path:
        """The folder or list of your own pictures."""
        return Path(os.path.expanduser(self.folder or ""))


@dataclass(frozen=True, kw_only=True)
class Source:
    """What every source says about itself.

    name: of its file, description: its first line; both are filled in by `source_named`. takes: keys of
    SetSettings that only some sources have a use for.
    """

    licence: str
    citation: str
    name: str = ""
    description: str = ""
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PictureSource(Source, ABC):
    """A source of pictures that pass through the one chain of decoding and resizing."""

    @abstractmethod
    def read(self, name: str, role: Role, settings: SetSettings) -> tuple[Splits, dict[str, Any]]:
        """Return the splits that a role uses of set `name`, and what is recorded of their origin.

        The key "" holds a set that comes without splits. Raises InputError for what cannot be obtained.
        """


Drawing = tuple[np.ndarray, np.ndarray, dict[str, Any]]  # images, labels, what is recorded


@dataclass(frozen=True, kw_only=True)
class DrawnSource(Source):
    """A source that draws its images: no download, no files.

    draw(count, size, channels, raster, rng) returns (images uint8 [count, channels, size, size], labels
    int64 [count] into `classes`, what is recorded of their origin).
    """

    draw: Callable[[int, int, int, int, np.random.Generator], Drawing]
    classes: tuple[str, ...] = ()


def noise_source(
    make: Callable[[int, int, int, np.random.Generator], np.ndarray], citation: str
) -> DrawnSource:
    """Return a source of images without classes, drawn by make(count, size, channels, rng)."""

    def draw(count: int, size: int, channels: int, raster: int, rng: np.random.Generator) -> Drawing:
        block = 256  # images whose floats exist at a time
        counts = [min(block, count - start) for start in range(0, count, block)]
        images = np.concatenate([make(part, size, channels, rng) for part in counts])
        return images, np.full(count, -1, np.int64), {}

    return DrawnSource(licence="none needed (synthetic)", citation=citation, draw=draw)


def source_names() -> list[str]:
    """Return the names of all sources; none of them is imported."""
    return names_in(import_module(PACKAGE))


def source_named(name: str, where: str) -> Source:
    """Import one source, and only it. Raises InputError, beginning with `where`, for an unknown name."""
    names = source_names()
    if name not in names:
        raise InputError(
            f"{where}: unknown source {name!r}{near(name, names)}; for pictures of your own write source: "
            "folder and folder: path/to/pictures"
        )
    module = import_module(f"{PACKAGE}.{name}")
    source = module.SOURCE
    if not isinstance(source, Source):
        raise TypeError(f"{module.__name__}.SOURCE must be a Source")
    return replace(source, name=name, description=(module.__doc__ or "").partition("\n")[0].rstrip("."))


def all_sources() -> dict[str, Source]:
    """Return {name: source} of all sources, in alphabetical order."""
    return {name: source_named(name, PACKAGE) for name in source_names()}


def check_takes(source: Source, settings: SetSettings, where: str) -> None:
    """Raise InputError for a key of one entry of `sets` that its source has no use for, or lacks."""
    for key in ("folder", "raster"):
        if getattr(settings, key) and key not in source.takes:
            raise InputError(f"{where}: source {source.name!r} does not take {key!r}; take the key out")
    if "folder" in source.takes and not settings.folder:
        raise InputError(f"{where}: source 'folder' needs the key 'folder': path/to/pictures")


def package_folder(package: str, inside: str) -> Path:
    """Return a folder of an installed package without importing it (its import would cost a second).

    Raises InputError if the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"package {package!r} is not installed; run `pip install -r requirements.txt`")
    return Path(spec.origin).parent / inside


def read_set_settings(values: Mapping[str, Any], where: str) -> SetSettings:
    """Return one entry of `sets`, strictly; `where` names it, e.g. "sets.digits"."""
    if "source" not in values:
        raise InputError(
            f"{where}: missing key 'source', where the images come from: the name of a file in "
            f"{PACKAGE.replace('.', '/')}, or `folder` for your own; see `python -m stages.download --list`"
        )
    return strict(SetSettings, values, where)


def with_sources(sets: Mapping[str, Any], id_name: str) -> dict[str, Any]:
    """Return the section `sets` of params from before sources were named, as it is written now."""
    known_sources = source_names()
    own = "folder" if "folder" in (sets.get(id_name) or {}) else id_name
    out: dict[str, Any] = {}
    for name, entry in sets.items():
        keys = dict(entry or {})
        derive = {f"{id_name}_heldout": "heldout", "corruptions": "corruptions"}.get(name)
        if "source" not in keys and derive:
            keys = {"role": keys.get("role"), "source": own, "derive": derive}
        elif "source" not in keys:
            keys["source"] = name if name in known_sources and "folder" not in keys else "folder"
        out[name] = keys
    return out
