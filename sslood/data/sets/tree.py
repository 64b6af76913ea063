"""A folder of image files: one folder per class, or flat."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.images import SUFFIXES
from sslood.data.sets.pictures import Pictures


def tree(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """Read the only folder of `files`: one folder per class, or flat (labels -1).

    options: `flat: true` ignores inner folders. Raises InputError for a folder without images, or with some
    beside class folders.
    """
    (folder,) = files.values()
    places = _image_places(folder)
    if not places:
        raise InputError(f"{folder}: no image in it; known endings: {', '.join(SUFFIXES)}")
    names = ["" if len(parts) == 1 else parts[0] for parts in places]
    classes = () if options.get("flat") or set(names) == {""} else tuple(sorted(set(names)))
    if "" in classes:
        loose = folder.joinpath(*places[names.index("")])
        raise InputError(f"{loose}: lies beside class folders; use either one folder per class or none")
    position = {name: index for index, name in enumerate(classes)}
    paths = [os.path.join(folder, *parts) for parts in places]
    return Pictures(paths, np.array([position.get(name, -1) for name in names], np.int64), classes)


def list_images(folder: Path) -> list[str]:
    """Return the path of every image file below `folder` (no hidden ones), sorted."""
    return [os.path.join(folder, *parts) for parts in _image_places(folder)]


def _image_places(folder: Path) -> list[tuple[str, ...]]:
    """Return the parts of every image file's path below `folder`, sorted (Path objects would be slow)."""
    places: list[tuple[str, ...]] = []
    folders: list[tuple[str, ...]] = [()]
    while folders:
        inner = folders.pop()
        with os.scandir(os.path.join(folder, *inner)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if not _loops(entry):
                        folders.append((*inner, entry.name))
                elif entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or entry.is_symlink()):
                    places.append((*inner, entry.name))
    return sorted(places)


def _loops(folder: os.DirEntry[str]) -> bool:
    """Whether a folder is a link to one that contains it, which would never end."""
    if not folder.is_symlink():
        return False
    target = os.path.realpath(folder.path)
    return os.path.commonpath((target, os.path.realpath(os.path.dirname(folder.path)))) == target
