"""The guard between choosing and testing: no image of a tuning set may be a test image."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.roles.roles import ROLES, names_of_roles, read_split

SHOWN = 10  # positions that a message lists


def check_disjoint(folder: Path, sets: Mapping[str, Any], where: str = "sets") -> dict[str, list[str]]:
    """Return {"chosen_on": tuning sets, "tested_on": sets}, once no image of one is also in the other.

    sets: the section with the sets and their roles, `where` its name. Compared, pixel by pixel, are the
    validation split of the tuning sets and the test split of every set that has one: a setting chosen on test
    images makes every number that follows too good. 40,000 images of CIFAR's size take a fifth of a second.
    Raises InputError, naming both sets and the positions, if an image is in both.
    """
    roles = {name: ROLES[role] for name, role in names_of_roles(sets, where).items()}
    tuning = {
        name: _positions(read_split(folder, name, "validation")[0])
        for name, role in roles.items()
        if role.is_tuning
    }
    tested = [name for name, role in roles.items() if role.is_tested]
    for test in tested if tuning else []:
        there = _positions(read_split(folder, test, "test")[0])
        for name, here in tuning.items():
            if shared := here.keys() & there.keys():
                _refuse(where, (name, _all_of(here, shared)), (test, _all_of(there, shared)))
    return {"chosen_on": list(tuning), "tested_on": tested}


def _positions(images: np.ndarray) -> dict[bytes, list[int]]:
    """Return {digest of the pixels: positions of the images that have them}."""
    positions: dict[bytes, list[int]] = {}
    for position, image in enumerate(np.ascontiguousarray(images)):
        positions.setdefault(hashlib.sha256(image).digest(), []).append(position)
    return positions


def _all_of(positions: Mapping[bytes, list[int]], digests: Iterable[bytes]) -> list[int]:
    return sorted(position for digest in digests for position in positions[digest])


def _refuse(where: str, tuning: tuple[str, list[int]], test: tuple[str, list[int]]) -> None:
    raise InputError(
        f"{where}: the tuning set {tuning[0]!r} shares {len(tuning[1])} of its validation images with the "
        f"test images of {test[0]!r} (positions {_listed(tuning[1])} and {_listed(test[1])}, from 0); "
        f"take them out of {tuning[0]!r}, or give it another role"
    )


def _listed(positions: list[int]) -> str:
    return ", ".join(map(str, positions[:SHOWN])) + (", …" if len(positions) > SHOWN else "")
