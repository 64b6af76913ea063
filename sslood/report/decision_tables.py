"""Tables for people about decisions at one threshold, ID under shift, and mistakes beside OOD images."""

from collections.abc import Mapping, Sequence

import pandas as pd

from sslood.report.cells import MISSING, Code, Table, percent
from sslood.report.columns import BY_CLASS, FULL, MAIN, rising
from sslood.report.frame import informed, is_informed
from sslood.report.price import AUTO
from sslood.report.summary import Summary
from sslood.report.tables import kindred

MOST_CLASSES = 12  # that the table of false alarms shows; of more, those with most alarms


def shown(summary: Summary) -> list[tuple[str, str]]:
    """Return the (model, detector) of the short tables: of each model the best, and the proposed one."""
    pairs = []
    there = set(zip(summary.rows["model"], summary.rows["detector"], strict=True))
    for model, detector in summary.best_detectors().items():
        pairs += [(model, name) for name in dict.fromkeys((detector, AUTO)) if (model, name) in there]
    return pairs


def at_the_threshold(summary: Summary) -> Table | None:
    """Return a row per pair of `shown`: shares that are flagged, of ID, its classes, and the other sets."""
    by_run = summary.alarms.groupby(["model", "detector", "set"], sort=False)
    rows = []
    for pair in shown(summary):
        if (*pair, summary.id) not in by_run.groups:
            continue
        own = by_run.get_group((*pair, summary.id))
        cells = [_mean(own["flagged"]), *_extremes(own, summary.classes), _mean(own["spread"]), _p(own)]
        for name in summary.shifted:
            there = (*pair, name) in by_run.groups
            cells.append(_mean(by_run.get_group((*pair, name))["flagged"]) if there else MISSING)
        cells += [_of_role(summary, pair, role, "flagged") for role in roles(summary)]
        rows.append([*map(Code, pair), ", ".join(own["calibrated_on"].unique()), *cells])
    header = ["model", "detector", "threshold from", summary.id, "fewest", "most", "spread", "p of equality"]
    header += [*summary.shifted, *roles(summary)]
    return Table(header, rows, left=header[1:3]) if rows else None


def by_class(summary: Summary) -> Table | None:
    """Return a row per pair of `shown`: the share of each ID class that is flagged; None without classes."""
    own = summary.alarms[summary.alarms["set"] == summary.id]
    columns = [f"{BY_CLASS}{name}" for name in summary.classes]
    own = own[own.set_index(["model", "detector"]).index.isin(shown(summary))]
    if own.empty or own[columns].isna().all(axis=None):
        return None
    worst = own[columns].mean().sort_values(ascending=False, kind="stable").index[:MOST_CLASSES]
    columns = [name for name in columns if name in set(worst)]
    grouped = own.groupby(["model", "detector"], sort=False)
    rows = [[*map(Code, pair), *(_mean(part[name]) for name in columns)] for pair, part in grouped]
    header = ["model", "detector", *(name.removeprefix(BY_CLASS) for name in columns)]
    return Table(header, rows, left=header[1:2])


def under_shift(summary: Summary) -> Table | None:
    """Return a row per pair of `shown`: AUROC with and without shifted sets as ID; None without such sets."""
    if f"{FULL}{MAIN}" not in summary.rows:
        return None
    grouped = summary.alarms.groupby(["model", "detector", "set"], sort=False)["auroc"]
    rows = []
    for pair in shown(summary):
        cells = [
            _of_role(summary, pair, role, name) for role in roles(summary) for name in (MAIN, f"{FULL}{MAIN}")
        ]
        keys = [(*pair, name) for name in summary.shifted]
        cells += [_mean(grouped.get_group(key)) if key in grouped.groups else MISSING for key in keys]
        rows.append([*map(Code, pair), *cells])
    header = ["model", "detector"]
    header += [text for role in roles(summary) for text in (role, f"{role}, full")]
    return Table(header + [f"ID against {name}" for name in summary.shifted], rows, left=header[1:2])


def near_far_of(summary: Summary, metric: str, *, bold: bool = True) -> list[Table]:
    """Return detectors x models of a column of DECISIONS, "near / far" in %, best in bold; [] without it."""
    if metric not in summary.rows:
        return []
    means = summary.by_role[(metric, "mean")].dropna()
    rivals = means[~informed(means.index.get_level_values("detector"))]
    best = rivals.groupby(level="role", sort=False).agg("max" if rising(metric) else "min").map(percent)
    top = {role: text if bold else "" for role, text in best.items()}
    tables = []
    for models in kindred(summary.by_role):
        part = means[means.index.isin(models, level="model")]
        names = [name for name in models if name in part.index.unique("model")]
        rows = [
            [Code(detector), *(_pair(part, (model, detector), top) for model in names)]
            for detector in part.index.unique("detector")
        ]
        if rows:
            tables.append(Table(["detector", *map(Code, names)], rows))
    return tables


def roles(summary: Summary) -> list[str]:
    """Return near and far, as far as there are such sets."""
    return list(dict.fromkeys(summary.roles.values()))


def _pair(means: pd.Series, pair: tuple[str, str], top: Mapping[str, str]) -> str:
    """Return the means of near and far, in bold where they are the text of `top`."""
    keys = {role: (*pair, role) for role in top}
    texts = [(percent(means[key]), top[role]) for role, key in keys.items() if key in means.index]
    is_rival = not is_informed(pair[1])
    return " / ".join(f"**{text}**" if is_rival and text == best else text for text, best in texts) or MISSING


def _of_role(summary: Summary, pair: tuple[str, str], role: str, metric: str) -> str:
    key = (*pair, role)
    if key not in summary.by_role.index:
        return MISSING
    return percent(summary.by_role.at[key, (metric, "mean")], summary.by_role.at[key, (metric, "std")])


def _mean(values: pd.Series) -> str:
    return percent(values.mean(), values.std())


def _extremes(own: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Return the least and the highest mean share of a class, each with the name of the class."""
    means = own[[f"{BY_CLASS}{name}" for name in classes]].mean().dropna()
    if means.empty:
        return [MISSING, MISSING]
    places = means.idxmin(), means.idxmax()
    return [f"{percent(means[place])} ({place.removeprefix(BY_CLASS)})" for place in places]


def _p(own: pd.DataFrame) -> str:
    """Return the largest p-value of the seeds: what all of them show."""
    value = own["p_equal"].max()
    return MISSING if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
