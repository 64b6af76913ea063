"""A sweep's results: tidy tables of all cells, means of every setting, and what each factor does.

Sets are averaged within near and far first. A factor's effect is measured on settings that have a result at
all of its levels: its mean over the other factors is taken for each seed, and the spread is that over seeds.
Objectives have factors of their own; each stands with the mean over its own settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from sslood.core.files import save_text
from sslood.report.cells import MISSING, Code, Table, percent
from sslood.report.columns import DIGITS, MAIN, METRICS
from sslood.report.levels import Level, levels
from sslood.report.render import render

ROLES = ("near", "far")
ACCURACIES = {"knn_accuracy": "kNN", "linear_accuracy": "linear"}
ACCURACY = "accuracy"  # the panel of accuracies, beside those of ROLES
Effects = dict[str, dict[str, dict[str, list[Level]]]]  # facet -> panel -> line -> levels


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep.

    scores: one row per cell, detector and set; encoders: one row per cell. Both have a column for each
    factor, empty where a cell does not have it, and one for the seed. facet: the factor within which the
    others are crossed. left_out: {cell: reason}.
    """

    name: str
    id: str
    facet: str
    factors: Sequence[str]
    scores: pd.DataFrame
    encoders: pd.DataFrame
    left_out: Mapping[str, str]

    @property
    def own(self) -> list[str]:
        """The factors without the facet."""
        return [name for name in self.factors if name != self.facet]

    @property
    def keys(self) -> list[str]:
        """The columns that name a setting: facet and factors."""
        return [self.facet, *self.own]

    @cached_property
    def measured(self) -> pd.DataFrame:
        """One row per setting, seed, panel and line, with a value: AUROC of a detector, or an accuracy.

        A panel is near, far or ACCURACY. Levels are texts, MISSING where a cell does not have the factor.
        """
        parts = []
        if len(self.scores):
            keys = [*self.keys, "seed", "role", "detector"]
            sets = self.scores.groupby("role")["set"].nunique()
            grouped = _texts(self.scores, self.keys).groupby(keys, sort=False)[MAIN]
            means = grouped.agg(["mean", "size"]).reset_index()
            means = means[means["size"] == means["role"].map(sets)]  # an average over all sets, or none
            parts.append(means.rename(columns={"role": "panel", "detector": "line", "mean": "value"}))
        for column, title in ACCURACIES.items():
            if column in self.encoders:
                rows = _texts(self.encoders, self.keys)
                parts.append(rows.assign(panel=ACCURACY, line=title, value=rows[column]))
        columns = [*self.keys, "seed", "panel", "line", "value"]
        return pd.concat(parts)[columns].dropna(subset="value").reset_index(drop=True)

    @cached_property
    def settings(self) -> pd.DataFrame:
        """Mean, std (n - 1) and count over seeds of each setting, panel and line."""
        keys = [*self.keys, "panel", "line"]
        return self.measured.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()

    def effects(self, factor: str) -> Effects:
        """Return the mean at each level of a factor, within each facet.

        Of the facet itself the means are over all of its own settings, in one facet "".
        """
        if factor == self.facet:
            facets = {"": _means(self.measured, factor, [])}
        else:
            others = [name for name in self.own if name != factor]
            parts = self.measured.groupby(self.facet, sort=False)
            facets = {str(name): _means(rows, factor, others) for name, rows in parts}
        lines = list(dict.fromkeys(self.measured["line"]))
        return {name: _levels(means, lines) for name, means in facets.items() if len(means.columns) > 1}


def _texts(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return rows with the levels of `keys` as texts, each its own; a whole number has no decimals."""
    return rows.assign(**{key: [_text(value) for value in rows[key]] for key in keys})


def _text(value: object) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return MISSING if pd.isna(value) else short if float(short) == value else repr(value)
    return MISSING if value is None else str(value)


def _means(rows: pd.DataFrame, factor: str, others: Sequence[str]) -> pd.DataFrame:
    """Return the mean over settings at each level (columns), by panel, line and seed.

    others: factors that make a setting, together with the seed; one that lacks a level is passed over.
    Without any, a mean is over all settings that a level has.
    """
    rows = rows[rows[factor] != MISSING]
    names = list(dict.fromkeys(rows[factor]))
    keys = ["panel", "line", "seed"]
    wide = rows.groupby([*keys, *others, factor], sort=False)["value"].mean().unstack(factor)[names]
    return wide.dropna().groupby(level=keys, sort=False).mean() if others else wide


def _levels(means: pd.DataFrame, lines: Sequence[str]) -> dict[str, dict[str, list[Level]]]:
    """Return {panel: {line: mean and spread over seeds at each level}}; the lines in the order of `lines`."""
    found: dict[str, dict[str, list[Level]]] = {panel: {} for panel in (*ROLES, ACCURACY)}
    groups = dict(list(means.groupby(level=["line", "panel"], sort=False)))
    for line, panel in sorted(groups, key=lambda key: lines.index(key[0])):
        table = groups[line, panel].agg(["mean", "std", "count"])
        found[panel][line] = [
            Level(str(name), float(mean), float(std) if count > 1 else None)
            for name, (mean, std, count) in table.items()
            if count
        ]
    return {panel: own for panel, own in found.items() if own}


def settings_table(sweep: Sweep, panels: Sequence[str]) -> Table:
    """Return a row per setting and a column per line, mean ± spread over seeds; panels joined by " / "."""
    rows = sweep.settings[sweep.settings["panel"].isin(panels)]
    lines = list(dict.fromkeys(rows["line"]))
    cells: dict[tuple, dict[str, dict[str, str]]] = {}
    for row in rows.to_dict("records"):
        own = cells.setdefault(tuple(row[key] for key in sweep.keys), {}).setdefault(row["line"], {})
        own[row["panel"]] = percent(row["mean"], row["std"])
    body = [
        [Code(key[0]), *key[1:], *(_joined(found.get(line, {}), panels) for line in lines)]
        for key, found in cells.items()
    ]
    return Table([*sweep.keys, *lines], body, left=sweep.keys)


def effects_table(effects: Effects, factor: str, facet: str, panels: Sequence[str]) -> Table:
    """Return a row per facet and level, a column per line; panels joined by " / "."""
    lines = list(
        dict.fromkeys(line for found in effects.values() for panel in panels for line in found.get(panel, {}))
    )
    rows: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for name, found in effects.items():
        for panel in panels:
            for line, points in found.get(panel, {}).items():
                for level in points:
                    own = rows.setdefault((name, level.name), {}).setdefault(line, {})
                    own[panel] = percent(level.mean, level.spread)
    first = [facet] if any(effects) else []
    body = [
        [*([Code(name)] if first else []), level, *(_joined(found.get(line, {}), panels) for line in lines)]
        for (name, level), found in rows.items()
    ]
    return Table([*first, factor, *lines], body, left=[*first, factor])


def _joined(cells: Mapping[str, str], panels: Sequence[str]) -> str:
    return " / ".join(cells.get(panel, MISSING) for panel in panels) if cells else MISSING


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write scores.csv, encoders.csv, settings.csv, table.md and one figure per factor, <factor>.svg."""
    files = {"scores": sweep.scores, "encoders": sweep.encoders, "settings": sweep.settings}
    for name, rows in files.items():
        # factors keep all their digits, and whole numbers have none behind the point
        own = {key: rows[key].convert_dtypes() for key in sweep.keys if key in rows}
        text = rows.round(DIGITS).assign(**own).to_csv(index=False, lineterminator="\n")
        save_text(folder / f"{name}.csv", text)
    effects = {factor: found for factor in sweep.factors if (found := sweep.effects(factor))}
    parts = {}
    for factor, found in effects.items():
        file = f"{factor.replace('.', '_')}.svg"
        save_text(folder / file, levels(found, factor, {ACCURACY: ACCURACY}))
        tables = [effects_table(found, factor, sweep.facet, panels) for panels in (ROLES, (ACCURACY,))]
        parts[factor] = {"figure": file, "tables": [table for table in tables if table.rows]}
    tables = [settings_table(sweep, panels) for panels in (ROLES, (ACCURACY,))]
    roles = sweep.scores.groupby("role") if len(sweep.scores) else ()
    text = render(
        "sweep.md.j2", sweep=sweep, title=METRICS[MAIN].title, parts=parts,
        tables=[table for table in tables if table.rows],
        sets={role: list(dict.fromkeys(rows["set"])) for role, rows in roles},
    )  # fmt: skip
    save_text(folder / "table.md", text)
