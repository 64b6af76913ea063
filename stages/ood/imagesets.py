"""Image sets for detectors that need the images themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.artefacts import load_tensors
from stages.core.errors import InputError


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
