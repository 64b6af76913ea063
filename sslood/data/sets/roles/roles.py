"""What image sets are for: one table of roles, the roles of the sets in the params, and their images.

Whatever handles sets asks this table: which splits a set file holds, which of them something is fitted to,
chosen on or tested on. Adding a role is adding an entry. No training depends on this room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.settings import near

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Role:
    """What a set of one role is for, split by split.

    kept: splits in its file. fitted: those that models or settings are fitted to or chosen on. embedded:
    those that every model embeds. needed: those that your own pictures must have, if they come in splits.
    published: splits of a publisher that may serve, the best first. is_labelled: the set has classes and a
    train split of its own, cut like the ID set's. is_ood: its test images are what detectors have to find.
    is_tuning: settings of detectors are chosen on its validation images. is_shifted: its test images show ID
    classes otherwise than ID train does, and count as ID.
    """

    kept: tuple[str, ...]
    fitted: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()
    needed: tuple[str, ...] = ("test",)
    published: tuple[str, ...] = ("test",)
    is_labelled: bool = False
    is_ood: bool = False
    is_tuning: bool = False
    is_shifted: bool = False

    @property
    def is_tested(self) -> bool:
        """Whether results are reported on its test split."""
        return "test" in self.kept


_LABELLED: dict[str, Any] = {
    **{"kept": SPLITS, "embedded": SPLITS, "published": SPLITS},
    **{"needed": ("train", "test"), "is_labelled": True},
}
_OOD = Role(kept=("test",), embedded=("test",), is_ood=True)
ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "id": Role(fitted=("train", "validation"), **_LABELLED),
        "near": _OOD,
        "far": _OOD,
        "tuning": Role(
            kept=("train", "validation"),
            fitted=("train", "validation"),
            embedded=("validation",),
            needed=("validation",),
            published=("train", "test"),
            is_tuning=True,
        ),
        "auxiliary": Role(kept=("train",), fitted=("train",), needed=("train",), published=("train", "test")),
        "mixing": Role(kept=("train",), fitted=("train",), needed=("train",), published=("train", "test")),
        "transfer": Role(**_LABELLED),
        "shifted": Role(kept=("test",), embedded=("test",), is_shifted=True),
    }
)

OOD_ROLES = tuple(name for name, role in ROLES.items() if role.is_ood)  # results are averaged over each


def role_named(name: object, where: str) -> Role:
    """Return the role called `name`; InputError lists the known ones, after `where`."""
    if not isinstance(name, str) or name not in ROLES:
        raise InputError(f"{where}: unknown role {name!r}{near(name, ROLES)}")
    return ROLES[name]


def names_of_roles(sets: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return {set: name of its role} from the section `sets` of the params.

    Raises InputError, naming the key below `where`, for an entry that is no mapping or an unknown role.
    """
    roles = {}
    for name, entry in sets.items():
        if not isinstance(entry, Mapping):
            raise InputError(f"{where}.{name}: must hold keys and values, e.g. {{role: far, source: {name}}}")
        role_named(entry.get("role"), f"{where}.{name}")
        roles[name] = entry["role"]
    return roles


def record_role(name: str) -> dict[str, Any]:
    """Return what an embeddings file says of a set's role, so that its readers need not know the table."""
    flags = ("is_ood", "is_tuning", "is_shifted")
    return {"role": name, **{flag: getattr(ROLES[name], flag) for flag in flags}}


def roles_of(sets: Mapping[str, Any], id_name: str, where: str) -> tuple[dict[str, str], list[str]]:
    """Return ({OOD test set: "near" | "far"}, names of the tuning sets) from the section `sets`.

    Raises InputError for an unknown role, and unless the ID set and an OOD test set are there.
    """
    roles = names_of_roles(sets, where)
    tests = {name: role for name, role in roles.items() if ROLES[role].is_ood}
    tuning = [name for name, role in roles.items() if ROLES[role].is_tuning]
    if roles.get(id_name) != "id" or not tests:
        raise InputError(f"{where}: needs {id_name!r} with role id, and a set with role near or far")
    return tests, tuning


def shifted_sets(sets: Mapping[str, Any], where: str) -> list[str]:
    """Return the names of the sets that count as ID under shift; InputError as `names_of_roles`."""
    return [name for name, role in names_of_roles(sets, where).items() if ROLES[role].is_shifted]


def read_split(folder: Path, name: str, split: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return (images uint8 [N, C, H, W], metadata of the set); InputError if its file does not hold them."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro download`")
    tensors, metadata = load_tensors(path, kind="set", only=[f"{split}.images"])
    return tensors[f"{split}.images"], metadata


def read_tuning(folder: Path, names: Sequence[str]) -> tuple[np.ndarray, list[dict[str, Any]], str]:
    """Return (validation images of tuning sets, uint8 [N, C, H, W], metadata of each, names of the splits).

    Of several sets it has as many of each, at even steps, so an AUROC against all is the mean over the sets.
    InputError as `read_split`.
    """
    parts, metadata = zip(*(read_split(folder, name, "validation") for name in names), strict=True)
    words = ", ".join(f"{name}.validation" for name in names)
    if len(parts) == 1:
        return parts[0], list(metadata), words
    least = min(map(len, parts))
    images = np.concatenate([part[np.arange(least) * len(part) // least] for part in parts])
    return images, list(metadata), words
