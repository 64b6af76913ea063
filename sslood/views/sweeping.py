"""What an ensemble's settings and members change: AUROC by temperature and step, and how members disagree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.core.rounding import decimal
from sslood.ood.kit.committee import COMMITTEE
from sslood.ood.kit.results import rounded
from sslood.ood.measures.metrics import nan_among, ood_metrics
from sslood.views.ensemble import Evaluated, Member, Setting

CHUNK = 1024  # images whose probabilities are held at a time
MEASURES = ("variation_ratio", "mutual_information")


def sweep_of(
    members: Sequence[Member],
    found: Evaluated,
    settings: Sequence[Setting],
    *,
    id_name: str,
    ood: Sequence[str],
    classes: int,
) -> dict[str, Any]:
    """Return {"points": each setting with its AUROC by OOD set, "disagreement": means by set, ID included}.

    `found`: by `settings`, of the ID test set `id_name`, the OOD sets `ood`, and others that count as ID.
    Test sets decide here what would have been best; nothing is chosen by it. A class that a member leaves
    out has probability 0 for it, so on ID images at least one member of a whole leave-out ensemble disagrees.
    Raises InputError, naming setting and set, if a score is NaN.
    """
    inside = {setting: rounded(scores, scores) for setting, scores in found.swept[id_name].items()}

    def auroc(name: str, setting: Setting) -> float:
        if reason := nan_among({id_name: inside[setting], name: found.swept[name][setting]}):
            raise InputError(f"eloc at {setting}: {reason}")
        outside = rounded(found.swept[name][setting], inside[setting])
        return decimal(ood_metrics(inside[setting], outside)["auroc"])

    points = [
        {**setting._asdict(), "auroc": {name: auroc(name, setting) for name in ood}} for setting in settings
    ]
    return {"points": points, "disagreement": disagreement(members, found.logits, classes)}


def disagreement(
    members: Sequence[Member], logits: Mapping[str, Sequence[np.ndarray]], classes: int
) -> dict[str, dict[str, float]]:
    """Return {set: means over its images of the variation ratio and the mutual information, in nats}.

    logits: of each set, [N, K] of each member, for its own classes.
    """
    return {
        name: dict(zip(MEASURES, map(decimal, _means(members, own, classes)), strict=True))
        for name, own in logits.items()
    }


def _means(members: Sequence[Member], logits: Sequence[np.ndarray], classes: int) -> list[float]:
    count, totals = len(logits[0]), [0.0 for _ in MEASURES]
    for start in range(0, count, CHUNK):
        rows = [own[start : start + CHUNK] for own in logits]
        whole = torch.zeros(len(members), len(rows[0]), classes, dtype=torch.float64)
        for place, (member, own) in enumerate(zip(members, rows, strict=True)):
            whole[place][:, list(member.head_classes)] = torch.from_numpy(own).softmax(1)
        sums = [float(COMMITTEE[name](whole).sum()) for name in MEASURES]
        totals = [a + b for a, b in zip(totals, sums, strict=True)]
    return [total / count for total in totals]
