"""Tables for people: percentages, mean ± spread over seeds, the best of a column in bold."""

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from sslood.report.results import RISING
from sslood.roles.roles import OOD_ROLES

NO_MARKS: Mapping[tuple, str] = MappingProxyType({})


def percent(mean: float, std: float | None = None) -> str:
    """Return "93.4 ± 1.2" from fractions; without spread where there is none."""
    if pd.isna(mean):
        return "–"
    text = f"{100 * mean:.1f}"
    return text if std is None or pd.isna(std) else f"{text} ± {100 * std:.1f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is left-aligned, the others right-aligned."""
    rule = [":---"] + ["---:"] * (len(header) - 1)
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def overview(
    summary: pd.DataFrame, metric: str, aside: Collection[str] = (), marks: Mapping[tuple, str] = NO_MARKS
) -> str:
    """Return detectors x models, each cell "near / far" of `metric`, means over sets and seeds.

    `summary` is what `over_seeds` returns. The best near and the best far value are bold; detectors
    in `aside` do not compete. `marks` maps (model, detector, role) to a sign that is put behind its value.
    """
    means = summary[(metric, "mean")]
    rivals = means[~means.index.get_level_values("detector").isin(aside)]
    best = {role: _best(rivals.xs(role, level="role"), metric) for role in rivals.index.unique("role")}
    return "\n".join(_overview_part(means, models, best, aside, marks) for models in kindred(means))


def kindred(means: pd.Series) -> list[list[str]]:
    """Return the models in groups that have a detector in common (ensembles have detectors of their own).

    `means` is indexed by (model, detector, …).
    """
    groups: list[tuple[list[str], set[str]]] = []
    for model, part in means.groupby(level="model", sort=False):
        detectors = set(part.index.get_level_values("detector"))
        for models, common in groups:
            if common & detectors:
                models.append(model)
                common |= detectors
                break
        else:
            groups.append(([model], detectors))
    return [models for models, _ in groups]


def _overview_part(
    means: pd.Series, models: list[str], best: dict, aside: Collection[str], marks: Mapping[tuple, str]
) -> str:
    mine = means[means.index.get_level_values("model").isin(models)]
    rows = []
    for detector in dict.fromkeys(mine.index.get_level_values("detector")):
        bold = {} if detector in aside else best
        rows.append([f"`{detector}`", *(_cell(mine, model, detector, bold, marks) for model in models)])
    return markdown(["detector", *(f"`{name}`" for name in models)], rows)


def _best(means: pd.Series, metric: str) -> str:
    return percent(means.max() if metric in RISING else means.min())


def _cell(
    means: pd.Series, model: str, detector: str, best: dict[str, str], marks: Mapping[tuple, str]
) -> str:
    texts = []
    for role in OOD_ROLES:
        if (model, detector, role) in means.index:
            text = percent(means[(model, detector, role)])
            text = f"**{text}**" if text == best.get(role) else text
            texts.append(text + marks.get((model, detector, role), ""))
    return " / ".join(texts) or "–"


def per_set(
    summary: pd.DataFrame,
    metrics: Sequence[str],
    best_by: str = "auroc",
    *,
    marks: Mapping[tuple, str] = NO_MARKS,
    intervals: Mapping[tuple, str] = NO_MARKS,
) -> str:
    """Return one row per model x detector, one column per set, each cell mean ± std over seeds.

    `summary` is what `over_seeds(..., by="set")` returns; the values of `metrics` are joined by " / "
    in a cell. Behind the first stand its signs in `marks` and its interval, both by (model, detector, set).
    Rows are sorted by the mean of `best_by` over sets, best first.
    """
    sets = list(dict.fromkeys(summary.index.get_level_values("set")))
    order = summary[(best_by, "mean")].groupby(level=["model", "detector"], sort=False).mean()
    order = order.sort_values(ascending=best_by.removeprefix("filtered_") not in RISING, kind="stable")
    rows = []
    for model, detector in order.index:
        keys = [(model, detector, name) for name in sets]
        behind = {key: f"{marks.get(key, '')} {intervals.get(key, '')}".rstrip() for key in keys}
        cells = [_values(summary, key, metrics, behind[key]) if key in summary.index else "–" for key in keys]
        rows.append([f"`{model}`", f"`{detector}`", *cells])
    return markdown(["model", "detector", *sets], rows)


def _values(summary: pd.DataFrame, key: tuple, metrics: Sequence[str], behind: str) -> str:
    texts = [percent(summary.at[key, (m, "mean")], summary.at[key, (m, "std")]) for m in metrics]
    return " / ".join([texts[0] + behind, *texts[1:]])


def accuracy_table(rows: pd.DataFrame) -> str:
    """Return models x probes, test accuracy as mean ± std over seeds; headings by `probe_name`."""
    probes = [name for name in rows.columns if name not in ("model", "seed")]
    grouped = rows.groupby("model", sort=False)[probes].agg(["mean", "std"])
    lines = [
        [f"`{model}`", *(percent(row[(probe, "mean")], row[(probe, "std")]) for probe in probes)]
        for model, row in grouped.iterrows()
    ]
    return markdown(["model", *map(probe_name, probes)], lines)


def probe_name(probe: str) -> str:
    """Return the heading of a column of accuracies; "linear_0.01" is the probe on 1 % of the labels."""
    share = re.fullmatch(r"linear_(0?\.\d+)", probe)
    return (
        f"linear, {100 * float(share[1]):g} % of labels"
        if share
        else probe.replace("transfer_", "transfer to ")
    )
