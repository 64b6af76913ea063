"""Leave-out classifiers as members of an ensemble, read from their model files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sslood.core.errors import InputError
from sslood.core.precision import Precision, dtype_of
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.files import load_named
from sslood.views.ensemble import Member
from sslood.views.opened import open_model


def load_members(
    folder: Path,
    set_metas: Sequence[Mapping[str, Any]],
    device: torch.device | str,
    precision: Precision,
    family: str = "",
) -> tuple[list[Member], int]:
    """Return (the members by name, their seed), in `precision`.

    set_metas: metadata of the ID set, then of the others. family: what the members' names begin with, before
    the fold that their file is named after; "" for any. Raises InputError if there is no member, one has
    another name or was made for other images or classes, or the members do not belong together.
    """
    paths = sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.stem), path.stem))  # 2 before 10
    if not paths:
        raise InputError(f"{folder}: no leave-out classifiers; run `dvc repro leaveout`")
    members, cards = [], []
    for path in paths:
        model, card = load_named(path, f"{family}_{path.stem}" if family else None, None, device)
        for index, set_meta in enumerate(set_metas):
            check_fits(card, set_meta, path, id_set=index == 0)
        if card.head_classes is None:
            raise InputError(f"{path}: this model has no classifier head; run `dvc repro leaveout`")
        model.to(dtype_of(precision)).to(memory_format=torch.channels_last)
        network = open_model(model, mean=card.mean, std=card.std, device=device)
        members.append(Member(model, card.head_classes, card.mean, card.std, model.dtype, path.stem, network))
        cards.append(card)
    _check_together(paths, cards)
    return members, cards[0].seed


def _check_together(paths: Sequence[Path], cards: Sequence[ModelCard]) -> None:
    """Raise InputError, naming the file, unless the members are one whole ensemble of one run's settings."""
    for path, card in zip(paths, cards, strict=True):
        for what in ("seed", "arch"):
            own, first = getattr(card, what), getattr(cards[0], what)
            if own != first:
                raise InputError(
                    f"{path}: has {what} {own}, but {paths[0].name} has {first}; an ensemble is of one "
                    f"{what}: run `dvc repro leaveout`"
                )
        own, first = ({key: value for key, value in one.settings.items() if key not in ("fold", "left_out")}
                      for one in (card, cards[0]))  # fmt: skip
        if key := next((key for key in own if own[key] != first.get(key)), None):
            raise InputError(
                f"{path}: was trained with {key} {own[key]}, but {paths[0].name} with {first.get(key)}; run "
                "`dvc repro leaveout`"
            )
    asked = [f"{fold}" for fold in cards[0].settings.get("folds", ())]
    found = [path.stem for path in paths]
    if asked and set(asked) != set(found):
        wrong = sorted(set(asked) ^ set(found))
        raise InputError(
            f"{paths[0].parent}: holds members {', '.join(found)}, but the folds are {', '.join(asked)}: "
            f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or left over; run `dvc repro "
            "leaveout`, and `make tidy`"
        )
