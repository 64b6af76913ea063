"""What `summarize` writes: the DVC metrics, the full summary, the tables and the page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.artefacts import load_tensors, save_json, save_text
from stages.report import figures, page, tables
from stages.report.mistakes import COLUMNS, mistakes_table
from stages.report.results import over_seeds
from stages.report.significance import LEGEND, MARK, interval_notes, marked, scores_file

HEADLINE = ["auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out", "detection_error"]
MISTAKES = (
    "Whether classifiers know their mistakes on the ID test set, by their highest probability, in %: area "
    "under the risk-coverage curve (0 is best), its excess over the best order, and how well mistakes are "
    "told from right predictions."
)
# SSD_k has seen images of the very OOD set it is tested on, so it is never called the best detector
INFORMED = {"ssdk"}


def write_metrics(folder: Path, groups: pd.DataFrame, accuracy: pd.DataFrame) -> None:
    """Write one small JSON per model x detector and per model: means over sets and seeds, as fractions.

    Few and stable keys: they are what `dvc metrics show` and `dvc metrics diff` print.
    """
    summary = over_seeds(groups, ["auroc", "fpr95_id"])
    for (model, detector), part in summary.groupby(level=["model", "detector"], sort=False):
        values = {
            f"{role}_{metric}": round(float(part.loc[(model, detector, role), (metric, "mean")]), 6)
            for role in part.index.get_level_values("role")
            for metric in ("auroc", "fpr95_id")
        }
        save_json(folder / "ood" / f"{model}.{detector}.json", values)
    for model, part in accuracy.groupby("model", sort=False):
        means = part.drop(columns=["model", "seed"]).mean().dropna()
        values = {f"accuracy_{probe}": round(float(value), 6) for probe, value in means.items()}
        save_json(folder / "accuracy" / f"{model}.json", values)


def nested(rows: pd.DataFrame, metrics: list[str]) -> dict:
    """Return {model: {detector: {set: {metric: {mean, std, n}}}}}; std is absent for one seed."""
    content: dict = {}
    for (model, detector, name), row in over_seeds(rows, metrics, by="set").iterrows():
        place = content.setdefault(model, {}).setdefault(detector, {}).setdefault(name, {})
        for metric in metrics:
            parts = {part: float(row[(metric, part)]) for part in ("mean", "std")}
            place[metric] = {part: round(value, 6) for part, value in parts.items() if not np.isnan(value)}
            place[metric]["n"] = int(row[(metric, "count")])
    return content


def write_tables(
    folder: Path, rows: pd.DataFrame, groups: pd.DataFrame, accuracy: pd.DataFrame, mistaken: pd.DataFrame
) -> None:
    """Write results.csv (every number), table.md (the overview) and per_set.md."""
    save_text(folder / "results.csv", rows.round(6).to_csv(index=False, lineterminator="\n"))
    text = (
        "AUROC in %, near-OOD / far-OOD: unweighted means over the sets of a group, then over seeds "
        f"({rows['seed'].nunique()}). Best in bold, `ssdk` aside: it has seen images of the OOD set.\n\n"
        + tables.overview(over_seeds(groups, HEADLINE), "auroc", INFORMED)
        + "\nTest accuracy on the ID classes in %, mean ± standard deviation over seeds.\n\n"
        + tables.accuracy_table(accuracy)
    )
    if len(mistaken):
        text += f"\n{MISTAKES}\n\n{mistakes_table(mistaken)}"
    save_text(folder / "table.md", text)
    caption = (
        "AUROC / FPR95 (ID positive) in %, mean ± standard deviation over seeds, for a single seed with the "
        f"95 % interval over images, best mean AUROC first. {LEGEND}\n\n"
    )
    notes = {"intervals": interval_notes(rows), "marks": dict.fromkeys(marked(rows), MARK)}
    per_set = tables.per_set(over_seeds(rows, HEADLINE, by="set"), ["auroc", "fpr95_id"], **notes)
    save_text(folder / "per_set.md", caption + per_set)


def cell_notes(rows: pd.DataFrame) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Return (model, detector, set) -> (interval, mark), each "" where there is none."""
    intervals, marks = interval_notes(rows), marked(rows)
    keys = intervals.keys() | marks
    return {key: (intervals.get(key, ""), f" {MARK}" if key in marks else "") for key in keys}


def best_detectors(groups: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (model, detector) with the highest mean of near and far AUROC, for every model."""
    fair = groups[~groups["detector"].isin(INFORMED)]
    means = fair.groupby(["model", "detector"], sort=False)["auroc"].mean().reset_index()
    best = means.loc[means.groupby("model", sort=False)["auroc"].idxmax()]
    return list(zip(best["model"], best["detector"], strict=True))


def score_panels(scores: Path, rows: pd.DataFrame, groups: pd.DataFrame, sets: list[str]) -> dict:
    """Return {title: {set: scores}} of the first run of each model's best detector."""
    panels = {}
    for model, detector in best_detectors(groups):
        first = rows[(rows["model"] == model) & (rows["detector"] == detector)].iloc[0]
        path = scores_file(scores, first["stage"], model, first["seed"])
        found, _ = load_tensors(path, kind="scores", only=[f"{model}.{detector}.{key}" for key in sets])
        panels[f"{model} · {detector}"] = {key: found[f"{model}.{detector}.{key}"] for key in sets}
    return panels


def read_curves(folder: Path, models: Sequence[str], seed: int) -> dict:
    """Return {model: {column: values}} of the training curves that exist for `seed`."""
    files = {model: folder / f"{model}-{seed}.csv" for model in models}
    return {model: pd.read_csv(path).to_dict("list") for model, path in files.items() if path.is_file()}


def write_report(
    folder: Path, id_name: str, rows, groups, accuracy, mistaken, panels: dict, curves: dict
) -> None:
    """Write index.html: shaded tables, ROC curves, accuracies, training curves."""
    note = (
        "Cells in %: AUROC ± standard deviation over seeds, then in small print FPR95, "
        "the share of OOD accepted when 95 % of ID is."
    )
    numbers = accuracy.drop(columns="seed").groupby("model", sort=False).mean().map(tables.percent)
    sections = [
        (
            "Near and far OOD",
            f"{note} Unweighted means over the sets of a group.",
            page.heat_table(over_seeds(groups, HEADLINE), "role"),
        ),
        (
            "Every set",
            f"{note} For a single seed, the 95 % interval of the AUROC over images. {LEGEND}",
            page.heat_table(over_seeds(rows, HEADLINE, by="set"), "set", cell_notes(rows)),
        ),
        (
            "What a threshold costs and catches",
            "For every model the detector that did best on these sets, first seed: the share of OOD images "
            "that is flagged at each share of false alarms. The dotted line marks 5 % false alarms.",
            f"<figure>{figures.roc_panels(panels, id_name)}</figure>",
        ),
        (
            "Accuracy on the ID classes",
            "Test accuracy in %, mean over seeds.",
            page.plain_table(numbers.reset_index()),
        ),
    ]
    if len(mistaken):
        means = mistaken.drop(columns="seed").groupby("model", sort=False).mean().map(tables.percent)
        sections.append(
            (
                "Knowing its own mistakes",
                MISTAKES,
                page.plain_table(means.rename(columns=COLUMNS).reset_index()),
            )
        )
    if curves:
        drawing = figures.curves(curves, ["loss", "knn", "validation_accuracy"])
        sections.append(("Training", "First seed.", f"<figure>{drawing}</figure>"))
    counts = {name: rows[name].nunique() for name in ("model", "detector", "set", "seed")}
    lead = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()) + "."
    save_text(folder / "index.html", page.page(f"OOD detection on {id_name}", lead, sections))
