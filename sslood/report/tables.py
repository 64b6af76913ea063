"""Tables for people: which results they show, in which order, and what is emphasised."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from sslood.report.cells import MISSING, Code, Figure, Table, percent
from sslood.report.columns import HEADLINE, MAIN, METRICS, SECOND, rising
from sslood.report.evidence import interval_notes
from sslood.report.frame import Key, informed, is_informed
from sslood.report.summary import Summary

EQUALS_SHOWN = 3  # of the results that are not significantly worse than the best; the others are counted
MISTAKES = {
    "error": "error",
    "aurc": "AURC ×10³",
    "eaurc": "E-AURC ×10³",
    "mistakes_auroc": "AUROC of errors",
    "mistakes_fpr95": "FPR95 of errors",
    "ece": "calibration error",
    "members_ece": "calibration error of members",
}


def overview(summary: Summary) -> list[Table]:
    """Return detectors x models, "near / far" AUROC; one table per group of models with common detectors."""
    return [near_far(summary, models) for models in kindred(summary.by_role)]


def headline(summary: Summary, models: Sequence[str], detectors: Sequence[str]) -> Table:
    """Return the overview of `detectors` and `models` alone, in this order, as far as they have results.

    If none of the models has any, it is the first group of the overview's.
    """
    index = summary.by_role.index
    shown = [name for name in models if name in index.unique("model")] or kindred(summary.by_role)[0]
    own = set(index[index.isin(shown, level="model")].unique("detector"))
    return near_far(summary, shown, [name for name in detectors if name in own] or None, among_shown=True)


def near_far(
    summary: Summary,
    models: Sequence[str],
    detectors: Sequence[str] | None = None,
    *,
    among_shown: bool = False,
) -> Table:
    """Return detectors x `models`, "near / far" AUROC, means over sets and seeds, best near and far in bold.

    detectors: the rows, in this order; None for all. among_shown: whether the best is that of the table, or
    of all results.
    """
    part = summary.by_role[summary.by_role.index.isin(models, level="model")]
    names = detectors or list(dict.fromkeys(part.index.get_level_values("detector")))
    part = part[part.index.isin(names, level="detector")]
    best = _best_texts(part if among_shown else summary.by_role)
    signs = summary.marks(part, best=False)
    rows: list[list[str]] = []
    for detector in names:
        bold = {} if is_informed(detector) else best
        cells = (_near_far_cell(part, (model, detector), bold, signs) for model in models)
        rows.append([Code(detector), *cells])
    return Table(["detector", *map(Code, models)], rows)


def _best_texts(summary: pd.DataFrame) -> dict[str, str]:
    """Return {role: the best value as it is printed}, so that all that look equal are in bold."""
    means = summary[(MAIN, "mean")]
    rivals = means[~informed(means.index.get_level_values("detector"))]
    pick = "max" if rising(MAIN) else "min"
    return {role: percent(value) for role, value in rivals.groupby(level="role").agg(pick).items()}


def _near_far_cell(
    summary: pd.DataFrame, pair: tuple[str, str], best: Mapping[str, str], marks: Mapping[Key, str]
) -> str:
    texts = []
    for role in ("near", "far"):
        key = (*pair, role)
        if key in summary.index:
            text = percent(summary.at[key, (MAIN, "mean")])
            texts.append((f"**{text}**" if text == best.get(role) else text) + marks.get(key, ""))
    return " / ".join(texts) or MISSING


def kindred(summary: pd.DataFrame) -> list[list[str]]:
    """Return the models in groups that share a detector (ensembles have detectors of their own)."""
    groups: list[tuple[list[str], set[str]]] = []
    for model, part in summary.groupby(level="model", sort=False):
        detectors = set(part.index.get_level_values("detector"))
        for models, common in groups:
            if common & detectors:
                models.append(model)
                common |= detectors
                break
        else:
            groups.append(([model], detectors))
    return [models for models, _ in groups]


def glance(summary: Summary) -> Table:
    """Return a row per role and per set: the best model and detector, how good it is, and its equals."""
    marks = summary.marks(summary.by_role, best=False) | summary.marks(summary.by_set, best=False)
    rows = []
    for role in dict.fromkeys(summary.roles.values()):
        sets = [name for name, own in summary.roles.items() if own == role]
        if len(sets) > 1:
            rows += _glance_row(summary, f"{role}: mean of {len(sets)}", role, "role", marks)
        for name in sets:
            rows += _glance_row(summary, f"{role}: {name}", name, "set", marks)
    titles = [METRICS[name].title for name in HEADLINE]
    header = ["OOD images", "best", *titles, "control", "not significantly worse"]
    return Table(header, rows, left=("best", "not significantly worse"))


def _glance_row(
    summary: Summary, title: str, name: str, by: str, marks: Mapping[Key, str]
) -> list[list[str]]:
    frame = summary.by_role if by == "role" else summary.by_set
    best = summary.best(frame, by).get(name)
    if best is None:
        return []
    texts = [
        percent(frame.at[best, (metric, "mean")], frame.at[best, (metric, "std")]) for metric in HEADLINE
    ]
    # best first, in the order of the frame where equal
    means = frame[(MAIN, "mean")].sort_values(ascending=not rising(MAIN), kind="stable")
    equals = [key for key in means.index if key in summary.near_best and key[2] == name and key != best]
    shown = ", ".join(f"{model} · {detector}" for model, detector, _ in equals[:EQUALS_SHOWN])
    if summary.rows.loc[summary.rows[by] == name, "p_best"].isna().all():
        shown = "too few images for a test"
    elif not equals:  # where the best mean is itself worse somewhere, that is said
        everywhere = "no row on every set" if by == "role" else "no row in every seed"
        shown = "none" if best in summary.near_best else everywhere
    more = f" and {len(equals) - EQUALS_SHOWN} more" if len(equals) > EQUALS_SHOWN else ""
    first = texts[0] + marks.get(best, "")
    control = percent(summary.control[name])
    return [[title, f"{best[0]} · {best[1]}", first, *texts[1:], control, shown + more]]


def matrices(summary: Summary, role: str) -> list[Table]:
    """Return detectors x models of one role, the best detector first, a table for each group of models.

    Detectors that are `informed` come last.
    """
    best, marks = summary.best(summary.by_role, "role").get(role), summary.marks(summary.by_role)
    frame = summary.by_role[summary.by_role.index.isin([role], level="role")]
    figures = _figures(frame, marks, best=best)
    tables = []
    for models in kindred(summary.by_role):
        part = frame[frame.index.isin(models, level="model")]
        if part.empty:
            continue
        order = (
            part[(MAIN, "mean")].groupby(level="detector", sort=False).agg("max" if rising(MAIN) else "min")
        )
        ranked = order.sort_values(ascending=not rising(MAIN), kind="stable").index
        rows: list[list[str | Figure]] = []
        for detector in sorted(ranked, key=is_informed):
            cells = (figures.get((model, detector, role), MISSING) for model in models)
            rows.append([Code(detector), *cells])
        tables.append(Table(["detector", *map(Code, models)], rows))
    return tables


def per_set(summary: Summary) -> Table:
    """Return a row per model and detector, best mean AUROC first, and a column per set."""
    notes = {name: f"control {percent(value)}" for name, value in summary.audit.control().items()}
    for name in notes:
        if count := len(summary.audit.excluded[name]):
            notes[name] += f", {count:,} excluded"
    marks, intervals = summary.marks(summary.by_set), interval_notes(summary.rows)
    return _ranked(summary.by_set, marks=marks, intervals=intervals, notes=notes)


def per_set_filtered(summary: Summary) -> Table | None:
    """Return the same without the images that the audit excludes, on both sides; None if it excludes none."""
    return None if summary.filtered is None else _ranked(summary.filtered)


def _ranked(
    frame: pd.DataFrame,
    *,
    marks: Mapping[Key, str] | None = None,
    intervals: Mapping[Key, str] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Table:
    sets, figures = list(frame.index.unique("set")), _figures(frame, marks, intervals)
    order = frame[(MAIN, "mean")].groupby(level=["model", "detector"], sort=False).mean()
    rows: list[list[str | Figure]] = []
    for model, detector in order.sort_values(ascending=not rising(MAIN), kind="stable").index:
        cells = (figures.get((model, detector, name), MISSING) for name in sets)
        rows.append([Code(model), Code(detector), *cells])
    return Table(["model", "detector", *sets], rows, left=("detector",), notes=notes or {})


def _figures(
    frame: pd.DataFrame,
    marks: Mapping[Key, str] | None = None,
    intervals: Mapping[Key, str] | None = None,
    best: Key | None = None,
) -> dict[Key, Figure]:
    """Return a cell for each row of `frame`, which is what `over_seeds` returns."""
    columns = [(name, part) for name in (MAIN, SECOND) for part in ("mean", "std")]
    marks, intervals = marks or {}, intervals or {}
    rows = frame[columns].itertuples(index=False, name=None)
    return {
        key: Figure(
            mean, std, second, second_std, marks.get(key, ""), intervals.get(key, ""), best=key == best
        )
        for key, (mean, std, second, second_std) in zip(frame.index, rows, strict=True)
    }


def sets(summary: Summary) -> Table:
    """Return a row per set, ID included: size, artefact control, how many images are excluded and why."""
    audit, control = summary.audit, summary.audit.control()
    rows = []
    for name, one in audit.sets.items():
        raw = one.get("control_auroc")
        side = MISSING if raw is None else "rougher" if raw >= 0.5 else "smoother"
        counts = [f"{one[key]:,}" for key in ("exact", "near", "class", "left_out")]
        value = MISSING if raw is None else percent(control[name])
        rows.append([Code(name), one["role"], f"{one['n']:,}", value, side, *counts])
    header = ["set", "role", "images", "control", "than ID", "exact", "near", "class", "excluded"]
    return Table(header, rows, left=("role", "than ID"))


def left_out(summary: Summary) -> Table | None:
    """Return a row per detector, OOD set and reason, of models without that result; None if all have it."""
    grouped = summary.left_out.groupby(["detector", "set", "reason"], sort=False)["model"]
    rows = [
        [", ".join(models), detector or "all", name or "all", reason]
        for (detector, name, reason), models in grouped
    ]
    header = ["model", "detector", "OOD set", "reason"]
    return Table(header, rows, left=header[1:]) if rows else None


def limits(summary: Summary) -> Table | None:
    """Return a row per limit that an image set misses, as `download` says it; None if there is none."""
    rows = [
        [Code(name), what, str(count), str(needed), consequence]
        for name, missed in summary.audit.limits.items()
        for what, count, needed, consequence in missed
    ]
    header = ["set", "too few", "count", "needed", "consequence"]
    return Table(header, rows, left=("too few", "consequence")) if rows else None


def accuracies(rows: pd.DataFrame) -> Table | None:
    """Return models x probes: test accuracy, mean ± std over seeds, or None; `rows` as of frame.py."""
    probes = [name for name in rows.columns if name not in ("model", "seed")]
    return None if not probes else _means(rows, {probe: probe_title(probe) for probe in probes})


def probe_title(probe: str) -> str:
    """Return the heading of a column of accuracies; "linear_0.01" is the probe on 1 % of the labels.

    "knn_on_x" is that of x, a set with role shifted.
    """
    if share := re.fullmatch(r"linear_(0?\.\d+)", probe):
        return f"linear, {100 * float(share[1]):g} % of labels"
    return probe.replace("transfer_", "transfer to ").replace("_on_", " on ")


def mistakes(rows: pd.DataFrame) -> Table:
    """Return classifiers x measures of how well they know their own mistakes, mean ± std over seeds.

    AURC and E-AURC are in thousandths, with two decimals: they are areas under a curve of small errors. The
    column of the members is there if a row is an ensemble's.
    """
    titles = {
        name: title for name, title in MISTAKES.items() if name != "members_ece" or rows[name].notna().any()
    }
    return _means(rows, titles, thousandths=[name for name in titles if name.endswith("aurc")])


def _means(rows: pd.DataFrame, titles: Mapping[str, str], thousandths: Sequence[str] = ()) -> Table:
    """Return models x columns of `titles`, mean ± std over seeds in %, or in thousandths."""
    grouped = rows.groupby("model", sort=False)[list(titles)].agg(["mean", "std"])
    lines: list[list[str]] = []
    for model, row in grouped.iterrows():
        forms = {name: (10.0, 2) if name in thousandths else (1.0, 1) for name in titles}
        cells = (
            percent(f * row[(name, "mean")], f * row[(name, "std")], digits)
            for name, (f, digits) in forms.items()
        )
        lines.append([Code(model), *cells])
    return Table(["model", *titles.values()], lines)
