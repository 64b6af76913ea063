"""Leave-out classifiers as members of an ensemble, read from their model files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sslood.core.errors import InputError
from sslood.nets.networks.files import check_fits, load_model
from sslood.views.ensemble import Member


def load_members(
    folder: Path, set_metas: Sequence[Mapping[str, Any]], device: torch.device | str
) -> tuple[list[Member], int]:
    """Return (the members by name, the seed of the first).

    set_metas: metadata of the ID set, then of the others. Raises InputError if there is no member, or
    one was made for other images or classes.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InputError(f"{folder}: no leave-out classifiers; run `dvc repro leaveout`")
    members, seeds = [], []
    for path in paths:
        model, metadata = load_model(path, device)
        for place, set_meta in enumerate(set_metas):
            check_fits(metadata, set_meta, path, id_set=place == 0)
        if metadata["head_classes"] is None:
            raise InputError(f"{path}: this model has no classifier head; run `dvc repro leaveout`")
        members.append(
            Member(model.requires_grad_(False), metadata["head_classes"], metadata["mean"], metadata["std"])
        )
        seeds.append(metadata["seed"])
    return members, seeds[0]
