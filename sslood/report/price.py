"""What the row `auto` costs: how far it is from the detector that hindsight would have taken."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

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


def choices(files: Iterable[ResultsFile]) -> dict[str, list[str]]:
    """Return {model: what `auto` chose for each seed}, e.g. "mahalanobis + energy"."""
    found: dict[str, list[str]] = {}
    for file in files:
        if file.stage == STAGE:
            content = load_json(file.path)
            for model, detectors in content["models"].items():
                entry = content.get("chosen", {}).get(f"{model}.{AUTO}.members")
                if entry and AUTO in detectors:
                    found.setdefault(model, []).append(" + ".join(entry["value"]))
    return found


def prices(rows: pd.DataFrame, groups: pd.DataFrame, chosen: Mapping[str, Sequence[str]]) -> Table | None:
    """Return a row per model: the choice, near and far AUROC, the best in hindsight, the difference; or None.

    rows: all results; groups: their near and far averages by model, detector and seed. The best in hindsight
    is the row of the stage with the highest mean over seeds. Near and far are apart: no row need be both.
    """
    stage = rows.loc[rows["stage"] == STAGE, ["model", "detector"]].drop_duplicates()
    rivals = groups.merge(stage).groupby(["model", "role"], sort=False)
    means = {key: part.groupby("detector", sort=False)[MAIN].mean() for key, part in rivals}
    lines: list[list[str]] = []
    for model, values in chosen.items():
        counts = Counter(values)
        said = ", ".join(f"{text} ({count} of {len(values)})" for text, count in counts.items())
        line = [Code(model), said if len(counts) > 1 else values[0]]
        for role in ROLES:
            part = means.get((model, role), {})
            line += _cells(part) if AUTO in part else [MISSING] * 3
        lines.append(line)
    titles = [f"{role}{what}" for role in ROLES for what in ("", ": best", ": price")]
    return Table(["model", AUTO, *titles], lines, left=(AUTO,)) if lines else None


def _cells(means: pd.Series) -> list[str]:
    best = str(means.idxmax())
    return [percent(means[AUTO]), f"{percent(means[best])} {best}", percent(means[best] - means[AUTO])]
