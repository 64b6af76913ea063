"""What `summarize` writes: the DVC metrics, the full summary, the tables and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.artefacts import load_tensors, save_json, save_text
from stages.report import figures, page, tables
from stages.report.audit import MARK as LIKE_CONTROL
from stages.report.audit import Audit, control, legend, near_control, of_roles, sets_table
from stages.report.mistakes import COLUMNS, mistakes_table
from stages.report.results import over_seeds, scores_file
from stages.report.significance import LEGEND, interval_notes, marked
from stages.report.significance import MARK as LIKE_BEST
from stages.report.tables import percent

HEADLINE = ["auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out", "detection_error"]
MISTAKES = (
    "Whether classifiers know their mistakes on the ID test set, by their highest probability, in %: area "
    "under the risk-coverage curve (0 is best), its excess over the best order, and how well mistakes are "
    "told from right predictions."
)
LEFT_OUT = (
    "the filtered numbers leave out: exact or else near duplicates of images that something is learnt from "
    "or chosen on (for OOD sets also of ID test images), and images of a class shared with the ID set."
)
SPREAD = "mean ± standard deviation over seeds, for a single seed with the 95 % interval over images"
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


@dataclass(frozen=True)
class Beside:
    """What stands beside the results: the audit, the margin of the mark (AUROC), {set: near or far}."""

    audit: Audit
    margin: float
    roles: Mapping[str, str]

    def marks(self, summary: pd.DataFrame) -> dict[tuple, str]:
        """Return {key of `summary`: sign} of what the artefact control nearly matches, by set or by role."""
        by_set = control(self.audit)
        reference = by_set | of_roles(by_set, self.roles)
        return dict.fromkeys(near_control(summary, reference, self.margin), LIKE_CONTROL)

    def cell_marks(self, rows: pd.DataFrame, by_set: pd.DataFrame) -> dict[tuple, str]:
        """Return {(model, detector, set): signs}: near the control, and no worse than the best."""
        like_control, like_best = self.marks(by_set), dict.fromkeys(marked(rows), LIKE_BEST)
        keys = like_control.keys() | like_best.keys()
        return {key: like_control.get(key, "") + like_best.get(key, "") for key in keys}

    def notes(self) -> dict[str, str]:
        """Return what stands under a set's name: the control, and the number of images left out."""
        found = {name: f"control {percent(value)}" for name, value in control(self.audit).items()}
        for name in found:
            if count := len(self.audit.left_out[name]):
                found[name] += f", {count:,} left out"
        return found

    def alone(self) -> str:
        """Return the sentence with what the control reaches by itself."""
        by_set = control(self.audit)
        groups = " / ".join(percent(value) for value in of_roles(by_set, self.roles).values())
        each = ", ".join(f"`{name}` {percent(value)}" for name, value in by_set.items())
        return f"The control alone reaches {groups} ({each})."


def write_tables(
    folder: Path,
    rows: pd.DataFrame,
    groups: pd.DataFrame,
    accuracy: pd.DataFrame,
    mistaken: pd.DataFrame,
    beside: Beside,
) -> None:
    """Write results.csv (every number), table.md (the overview) and per_set.md."""
    save_text(folder / "results.csv", rows.round(6).to_csv(index=False, lineterminator="\n"))
    summary = over_seeds(groups, HEADLINE)
    text = (
        "AUROC in %, near-OOD / far-OOD: unweighted means over the sets of a group, then over seeds "
        f"({rows['seed'].nunique()}). Best in bold, `ssdk` aside: it has seen images of the OOD set.\n\n"
        + tables.overview(summary, "auroc", INFORMED, beside.marks(summary))
        + f"\n{legend(beside.margin)} {beside.alone()}\n"
        + "\nTest accuracy on the ID classes in %, mean ± standard deviation over seeds.\n\n"
        + tables.accuracy_table(accuracy)
    )
    if len(mistaken):
        text += f"\n{MISTAKES}\n\n{mistakes_table(mistaken)}"
    save_text(folder / "table.md", text)
    save_text(folder / "per_set.md", _per_set(rows, beside))


def _per_set(rows: pd.DataFrame, beside: Beside) -> str:
    summary = over_seeds(rows, HEADLINE, by="set")
    signs = beside.cell_marks(rows, summary)
    header, *lines = sets_table(beside.audit)
    parts = [
        f"AUROC / FPR95 (ID positive) in %, {SPREAD}, best mean AUROC first.\n",
        tables.per_set(summary, ["auroc", "fpr95_id"], marks=signs, intervals=interval_notes(rows)),
        f"{legend(beside.margin)} {LEGEND}\n",
        f"The sets: AUROC of the artefact control in %, and how many images {LEFT_OUT}\n",
        tables.markdown(header, lines),
    ]
    if beside.audit.left_out_in_all:
        columns = ["filtered_auroc", "filtered_fpr95_id"]
        filtered = over_seeds(rows, columns, by="set")
        parts += [
            "The first table without the images to leave out, on both sides.\n",
            tables.per_set(filtered, columns, "filtered_auroc"),
        ]
    return "\n".join(parts)


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


def _table_sections(rows: pd.DataFrame, groups: pd.DataFrame, beside: Beside) -> list[tuple[str, str, str]]:
    note = (
        "Cells in %: AUROC ± standard deviation over seeds, then in small print FPR95, "
        "the share of OOD accepted when 95 % of ID is."
    )
    by_role, by_set = over_seeds(groups, HEADLINE), over_seeds(rows, HEADLINE, by="set")
    signs = beside.cell_marks(rows, by_set)
    header, *lines = sets_table(beside.audit)
    sections = [
        (
            "Near and far OOD",
            f"{note} Unweighted means over the sets of a group. {legend(beside.margin)}",
            page.heat_table(by_role, "role", marks=beside.marks(by_role)),
        ),
        (
            "Every set",
            f"{note} For a single seed the 95 % interval of the AUROC. {legend(beside.margin)} {LEGEND}",
            page.heat_table(by_set, "set", marks=signs, notes=beside.notes(), intervals=interval_notes(rows)),
        ),
        (
            "The sets",
            f"AUROC of the artefact control in %, and how many images {LEFT_OUT}",
            page.plain_table(pd.DataFrame(lines, columns=header)),
        ),
    ]
    if beside.audit.left_out_in_all:
        filtered = over_seeds(rows, ["filtered_auroc", "filtered_fpr95_id"], by="set")
        without = "Every set without the images to leave out, on both sides."
        table = page.heat_table(filtered, "set", prefix="filtered_")
        sections.append(("Without overlaps", f"{without} {note}", table))
    return sections


def write_report(
    folder: Path, id_name: str, rows, groups, accuracy, mistaken, panels: dict, curves: dict, beside: Beside
) -> None:
    """Write index.html: shaded tables, ROC curves, accuracies, training curves."""
    numbers = accuracy.drop(columns="seed").groupby("model", sort=False).mean().map(tables.percent)
    sections = [
        *_table_sections(rows, groups, beside),
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
