"""What the row `auto` costs: how far it is from what hindsight would have taken, of one model and of all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
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
    auroc: float  # in [0, 1], between ID validation and the tuning sets; NaN if the params name the members


class Priced(NamedTuple):
    """AUROC of a row `auto`, and of the row that hindsight would have taken: its detector and model."""

    own: float
    best: float
    detector: str
    model: str

    def cells(self) -> list[str]:
        """Return the AUROC of `auto`, the best and its detector, and the price, in %."""
        return [percent(self.own), f"{percent(self.best)} {self.detector}", percent(self.best - self.own)]


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
    tried = {" + ".join(one["members"]): one["auroc"] for one in entry.get("candidates", [])}
    members = " + ".join(entry["value"])
    return Choice(members, tried.get(members, nan))


def prices(rows: pd.DataFrame, groups: pd.DataFrame, chosen: Mapping[str, Sequence[Choice]]) -> Table | None:
    """Return a row per model: the choice, near and far AUROC, the best in hindsight, the difference; or None.

    rows: all results; groups: their near and far averages by model, detector and seed. The best in hindsight
    is the row of the stage with the highest mean over seeds. Near and far are apart: no row need be both.
    """
    means, tuning = _means(rows, groups), _tuning(chosen)
    lines: list[list[str]] = []
    for model, values in chosen.items():
        line = [Code(model), _said([one.members for one in values]), percent(tuning[model])]
        for role in ROLES:
            found = _priced(means, role, model, [model])
            line += found.cells() if found else [MISSING] * 3
        lines.append(line)
    titles = [f"{role}{what}" for role in ROLES for what in ("", ": best", ": price")]
    return Table(["model", AUTO, "tuning", *titles], lines, left=(AUTO,)) if lines else None


def best_model(
    rows: pd.DataFrame, groups: pd.DataFrame, chosen: Mapping[str, Sequence[Choice]]
) -> str | None:
    """Return in words which model to take, that of the highest mean AUROC on the tuning sets, and its price.

    The price is what the best row of any model has more. None for one model alone; arguments as of `prices`.
    """
    means = _means(rows, groups)
    tuning = {name: value for name, value in _tuning(chosen).items() if not isnan(value)}
    if len(tuning) < 2:
        return None
    model = max(tuning, key=lambda name: tuning[name])
    parts = []
    for role in ROLES:
        if found := _priced(means, role, model, [*chosen]):
            own, _, price = found.cells()
            best = f"{percent(found.best)} by `{found.detector}` of `{found.model}`"
            parts.append(f"{role} {own} (price {price}: {best})")
    said = f"Of the models, `{model}` has the highest tuning AUROC"
    return f"{said}: {', '.join(parts)}." if parts else f"{said}."


def _means(rows: pd.DataFrame, groups: pd.DataFrame) -> pd.Series:
    """Return the AUROC of the stage's rows by role, model and detector, mean over seeds."""
    stage = rows.loc[rows["stage"] == STAGE, ["model", "detector"]].drop_duplicates()
    return groups.merge(stage).groupby(["role", "model", "detector"], sort=False)[MAIN].mean()


def _tuning(chosen: Mapping[str, Sequence[Choice]]) -> dict[str, float]:
    return {model: sum(one.auroc for one in values) / len(values) for model, values in chosen.items()}


def _said(members: Sequence[str]) -> str:
    counts = Counter(members)
    said = ", ".join(f"{text} ({count} of {len(members)})" for text, count in counts.items())
    return said if len(counts) > 1 else members[0]


def _priced(means: pd.Series, role: str, model: str, models: Sequence[str]) -> Priced | None:
    """Return `auto` of a model beside the best row of `models`; None without that row of `auto`."""
    rivals = means[means.index.isin([role], "role") & means.index.isin(models, "model")]
    if (role, model, AUTO) not in rivals.index:
        return None
    _, of, detector = rivals.idxmax()
    return Priced(rivals[role, model, AUTO], rivals.max(), detector, of)
