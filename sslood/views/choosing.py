"""The choice of an ensemble's temperature, step and target on validation images; never on a test set."""

from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
import torch

from sslood.core.errors import InputError, LeftOut
from sslood.core.rounding import decimal
from sslood.ood.kit.results import rounded
from sslood.ood.measures.metrics import nan_among, ood_metrics
from sslood.views.ensemble import EnsembleSettings, Member, Progress, Setting, Votes, ask


def choose(
    members: Sequence[Member],
    validation: np.ndarray,
    labels: np.ndarray,
    tuning: np.ndarray | None,
    settings: EnsembleSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = lambda count: None,
) -> tuple[Setting, list[dict[str, Any]]]:
    """Return (the candidate with the highest AUROC, the first of equals; each candidate with its AUROC).

    `validation`: uint8 images [N, C, H, W] of the ID set with `labels` [N]; `tuning`: OOD images, None
    without. With `choose_on: tuning` it is the AUROC of the ensemble's score, ID validation against tuning.
    With `leftout`, which is ours and sees no OOD image, it is the mean over the members of the AUROC of the
    member's own score, ID validation images of its classes against those of the others. One candidate needs
    no choice. Raises LeftOut if there is nothing to choose on, InputError if a score is NaN.
    """
    candidates = settings.candidates
    if len(candidates) == 1:
        return candidates[0], []
    asked = partial(ask, settings=candidates, device=device, progress=progress)
    if settings.choose_on == "leftout":
        kept = [np.isin(labels, list(member.head_classes)) for member in members]
        if not all(mask.any() and not mask.all() for mask in kept):
            raise LeftOut(
                "chooses its settings on ID validation images of left-out classes; a member has none"
            )
        answers = [asked(member, validation).votes for member in members]
        values = np.mean([_aurocs([v[mask] for v in votes], [v[~mask] for v in votes], "left-out classes")
                          for votes, mask in zip(answers, kept, strict=True)], 0)  # fmt: skip
    else:
        if tuning is None:
            raise LeftOut("chooses its settings on a set with role tuning, and there is none")
        inside, outside = (
            [
                reduce(add, votes)
                for votes in zip(*(asked(member, images).votes for member in members), strict=True)
            ]
            for images in (validation, tuning)
        )
        values = np.array(_aurocs(inside, outside, "tuning"))
    found = [decimal(float(value)) for value in values]
    best = max(range(len(found)), key=lambda index: found[index])
    return candidates[best], [{**c._asdict(), "auroc": v} for c, v in zip(candidates, found, strict=True)]


def _aurocs(inside: Sequence[Votes], outside: Sequence[Votes], against: str) -> list[float]:
    for own, other in zip(inside, outside, strict=True):
        if reason := nan_among({"ID validation": own.score, against: other.score}):
            raise InputError(f"eloc: {reason}; look at the training of its members")
    pairs = ((a.score, rounded(b.score, a.score)) for a, b in zip(inside, outside, strict=True))
    return [ood_metrics(rounded(a, a), b)["auroc"] for a, b in pairs]
