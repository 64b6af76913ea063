"""Leave-out classifiers as members of an ensemble, read from their model files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sslood.core.errors import InputError
from sslood.core.precision import Precision, dtype_of
from sslood.nets.networks.card import check_fits
from sslood.nets.networks.files import load_model
from sslood.views.ensemble import Member


def load_members(
    folder: Path, set_metas: Sequence[Mapping[str, Any]], device: torch.device | str, precision: Precision
) -> tuple[list[Member], int]:
    """Return (the members by name, the seed of the first), in `precision`.

    set_metas: metadata of the ID set, then of the others. Raises InputError if there is no member, or
    one was made for other images or classes.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InputError(f"{folder}: no leave-out classifiers; run `dvc repro leaveout`")
    members, seeds = [], []
    for path in paths:
        model, card = load_model(path, device)
        for index, set_meta in enumerate(set_metas):
            check_fits(card, set_meta, path, id_set=index == 0)
        if card.head_classes is None:
            raise InputError(f"{path}: this model has no classifier head; run `dvc repro leaveout`")
        model.requires_grad_(False).to(dtype_of(precision))
        members.append(Member(model, card.head_classes, card.mean, card.std, model.dtype))
        seeds.append(card.seed)
    return members, seeds[0]
