"""Image sets for detectors that need the images themselves, and what keeps choices apart from tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import load_tensors

TESTED = ("id", "near", "far", "transfer")  # roles of sets that have test images
SHOWN = 10  # positions that a message lists


def roles_of(sets: Mapping[str, Any], id_name: str, where: str) -> tuple[dict[str, str], str]:
    """Return ({OOD test set: "near" | "far"}, name of the tuning set) from the section with the sets.

    Raises InputError if the ID set, all OOD test sets or the tuning set are not among them.
    """
    roles = {name: (entry or {}).get("role") for name, entry in sets.items()}
    tests = {name: role for name, role in roles.items() if role in ("near", "far")}
    tuning = [name for name, role in roles.items() if role == "tuning"]
    if roles.get(id_name) != "id" or not tests or not tuning:
        raise InputError(
            f"{where}: needs {id_name!r} with role id, a set with role near or far, and one with role tuning"
        )
    return tests, tuning[0]


def read_split(folder: Path, name: str, split: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return (images uint8 [N, C, H, W], metadata of the set); InputError if the file does not hold them."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro download`")
    tensors, metadata = load_tensors(path, kind="set", only=[f"{split}.images"])
    return tensors[f"{split}.images"], metadata


def check_disjoint(folder: Path, sets: Mapping[str, Any]) -> None:
    """Raise InputError if an image that settings are chosen on is also a test image, pixel by pixel.

    sets: the section with the sets and their roles; compared are the validation split of the tuning sets
    and the test split of every other one. A setting chosen on test images makes every number that follows
    too good. 40,000 images of CIFAR's size take a fifth of a second.
    """
    roles = {name: (entry or {}).get("role") for name, entry in sets.items()}
    tuning = {
        name: read_split(folder, name, "validation")[0] for name, role in roles.items() if role == "tuning"
    }
    places = {name: _places(images) for name, images in tuning.items()}
    for test, role in roles.items():
        if role not in TESTED or not tuning:
            continue
        images, _ = read_split(folder, test, "test")
        keys = _keys(images)
        for name, own in tuning.items():
            rows = [
                (place, row)
                for row, key in enumerate(keys)
                for place in places[name].get(key, ())
                if np.array_equal(own[place], images[row])
            ]
            if rows:
                _refuse(name, test, rows)


def _refuse(tuning: str, test: str, rows: list[tuple[int, int]]) -> None:
    own, others = (sorted(set(side)) for side in zip(*rows, strict=True))
    raise InputError(
        f"sets: the tuning set {tuning!r} shares {len(own)} of its validation images with the test images of "
        f"{test!r} (places {_listed(own)} here, {_listed(others)} there, counted from 0); take them out of "
        f"{tuning!r}, or give it another role"
    )


def _listed(places: list[int]) -> str:
    return ", ".join(map(str, places[:SHOWN])) + (", …" if len(places) > SHOWN else "")


def _keys(images: np.ndarray) -> list[int]:
    """Return a 64-bit key of each image; equal images have equal keys."""
    return [hash(image.tobytes()) for image in images]


def _places(images: np.ndarray) -> dict[int, list[int]]:
    """Return key -> positions of the images that have it."""
    found: dict[int, list[int]] = {}
    for place, key in enumerate(_keys(images)):
        found.setdefault(key, []).append(place)
    return found
