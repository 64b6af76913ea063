"""The first question to a report: which method is best on each OOD set, and which ones it does not beat."""

from collections.abc import Collection, Mapping

import pandas as pd

from sslood.report.tables import percent

NAMED = 3  # so many of the equals are named, the rest counted


def best_of(summary: pd.DataFrame, by: str, aside: Collection[str]) -> dict[str, tuple]:
    """Return {set or role: key of `summary` with the highest mean AUROC}.

    `summary` is what `over_seeds(..., by=by)` returns; of equal ones the first is taken, and detectors in
    `aside` do not compete.
    """
    means = summary[("auroc", "mean")]
    fair = means[~means.index.get_level_values("detector").isin(aside)].dropna()
    return {name: part.idxmax() for name, part in fair.groupby(level=by, sort=False)}


def group_equals(
    equals: Collection[tuple], summary: pd.DataFrame, roles: Mapping[str, str]
) -> set[tuple[str, str, str]]:
    """Return the (model, detector, role) that are in `equals`, keys by set, on every set of the role."""
    keys = {key[:2] for key in summary.index}
    return {
        (*key, role)
        for role in dict.fromkeys(roles.values())
        for key in keys
        if all((*key, name) in equals for name, own in roles.items() if own == role)
    }


def glance_table(
    by_role: pd.DataFrame,
    by_set: pd.DataFrame,
    roles: Mapping[str, str],
    control: Mapping[str, float],
    equals: Collection[tuple],
    aside: Collection[str],
    marks: Mapping[tuple, str],
) -> pd.DataFrame:
    """Return a row per role and per set: the best model and detector, AUROC, FPR95, control, its equals.

    `control` holds the artefact control's AUROC by role and by set, `equals` the keys, by role and by set,
    that are not significantly worse than the best; `marks` maps keys to signs behind the AUROC.
    """
    rows = []
    for role in dict.fromkeys(roles.values()):
        sets = [name for name, own in roles.items() if own == role]
        found = [(f"{role}: mean of {len(sets)}", role, by_role, "role")] if len(sets) > 1 else []
        found += [(f"{role}: {name}", name, by_set, "set") for name in sets]
        for title, name, summary, by in found:
            best = best_of(summary, by, aside).get(name)
            if best is not None:
                row = _row(title, best, summary, control[name], equals)
                rows.append(row | {"AUROC": row["AUROC"] + marks.get(best, "")})
    return pd.DataFrame(rows)


def _row(title: str, best: tuple, summary: pd.DataFrame, control: float, equals: Collection[tuple]) -> dict:
    row = summary.loc[best]
    # best first, in the order of the summary where equal
    means = summary[("auroc", "mean")].sort_values(ascending=False, kind="stable")
    others = [f"{key[0]} · {key[1]}" for key in means.index if key in equals and key[2] == best[2]]
    others = [name for name in others if name != f"{best[0]} · {best[1]}"]
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return {
        "OOD images": title,
        "best": f"{best[0]} · {best[1]}",
        "AUROC": percent(row[("auroc", "mean")], row[("auroc", "std")]),
        "FPR95": percent(row[("fpr95_id", "mean")], row[("fpr95_id", "std")]),
        "control": percent(control),
        "not significantly worse": (", ".join(others[:NAMED]) + more) or "none",
    }
