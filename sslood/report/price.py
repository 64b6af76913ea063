"""What the row `auto` costs: how far it is from what hindsight would have taken, of one model and of all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from sslood.core.files import load_json
from sslood.report.cells import MISSING, Code, Table, percent
from sslood.report.columns import MAIN
from sslood.report.frame import ResultsFile

AUTO, STAGE = "auto", "posthoc"  # the row that stands for a choice, and the stage whose rows it chose among
PRICE = "price"
ROLES = ("near", "far")


def with_price(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the column `price`, which only those of `auto` have, if there are any.

    It is the AUROC of the best row of the same stage, model, seed and set, minus its own: 0 or more.
    """
    own = (rows["detector"] == AUTO) & (rows["stage"] == STAGE)
    if not own.any():
        return rows
    best = rows.groupby(["stage", "model", "seed", "set"])[MAIN].transform("max")
    return rows.assign(**{PRICE: (best - rows[MAIN]).where(own)})


class Choice(NamedTuple):
    """What `auto` chose for a model and seed, e.g. "mahalanobis + energy", and the AUROC it was chosen by."""

    members: str
    auroc: float  # in [0, 1], between ID validation and the tuning sets: no test image is in it


def choices(files: Iterable[ResultsFile]) -> dict[str, list[Choice]]:
    """Return {model: what `auto` chose for each seed}."""
    found: dict[str, list[Choice]] = {}
    for file in files:
        if file.stage == STAGE:
            content = load_json(file.path)
            for model, detectors in content["models"].items():
                entry = content.get("chosen", {}).get(f"{model}.{AUTO}.members")
                if entry and AUTO in detectors:
                    found.setdefault(model, []).append(_choice(entry))
    return found


def _choice(entry: Mapping[str, Any]) -> Choice:
    tried = {" + ".join(one["members"]): one["auroc"] for one in entry["candidates"]}
    members = " + ".join(entry["value"])
    return Choice(members, tried[members])


def prices(rows: pd.DataFrame, groups: pd.DataFrame, chosen: Mapping[str, Sequence[Choice]]) -> Table | None:
    """Return a row per model: the choice, near and far AUROC, the best in hindsight, the difference; or None.

    rows: all results; groups: their near and far averages by model, detector and seed. The best in hindsight
    is the row of the stage with the highest mean over seeds. Near and far are apart: no row need be both. Of
    several models, the last row takes that whose choice has the highest mean AUROC on the tuning sets, and
    compares it with the best row of any model.
    """
    stage = rows.loc[rows["stage"] == STAGE, ["model", "detector"]].drop_duplicates()
    rivals = groups.merge(stage)
    means = rivals.groupby(["role", "model", "detector"], sort=False)[MAIN].mean()
    tuning = {model: sum(one.auroc for one in values) / len(values) for model, values in chosen.items()}
    lines: list[list[str]] = []
    for model, values in chosen.items():
        line = [Code(model), _said([one.members for one in values]), percent(tuning[model])]
        for role in ROLES:
            line += _cells(means, role, model, [model])
        lines.append(line)
    if len(chosen) > 1:
        model = max(tuning, key=lambda name: tuning[name])
        line = ["of all models", f"that of {model}", percent(tuning[model])]
        for role in ROLES:
            line += _cells(means, role, model, list(chosen))
        lines.append(line)
    titles = [f"{role}{what}" for role in ROLES for what in ("", ": best", ": price")]
    return Table(["model", AUTO, "tuning", *titles], lines, left=(AUTO,)) if lines else None


def _said(members: Sequence[str]) -> str:
    counts = Counter(members)
    said = ", ".join(f"{text} ({count} of {len(members)})" for text, count in counts.items())
    return said if len(counts) > 1 else members[0]


def _cells(means: pd.Series, role: str, model: str, models: Sequence[str]) -> list[str]:
    """Return AUROC of `auto` of a model, the best row of `models`, and the difference, in %."""
    own = means[means.index.isin([role], "role") & means.index.isin(models, "model")]
    if (role, model, AUTO) not in own.index:
        return [MISSING] * 3
    _, best, detector = own.idxmax()
    said = detector if len(models) == 1 else f"{detector} of {best}"
    return [
        percent(own[role, model, AUTO]),
        f"{percent(own.max())} {said}",
        percent(own.max() - own[role, model, AUTO]),
    ]
