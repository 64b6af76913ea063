"""What `summarize` writes beside the page: the DVC metrics, the full summary, the tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from sslood.core.files import save_json, save_text
from sslood.report import tables
from sslood.report.audit import MARK as LIKE_CONTROL
from sslood.report.audit import Audit, control, legend, near_control, of_roles, sets_table
from sslood.report.columns import columns_list
from sslood.report.glance import group_equals
from sslood.report.mistakes import mistakes_table
from sslood.report.results import by_group, over_seeds
from sslood.report.significance import LEGEND, interval_notes, marked
from sslood.report.significance import MARK as LIKE_BEST
from sslood.report.tables import percent

HEADLINE = ["auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out", "detection_error"]
ACCURACY = (
    "Test accuracy on the ID classes in %: knn = nearest neighbours of the frozen features; linear = "
    "logistic regression on them, learnt from all labels of ID train or from the share that is named; "
    "head = the classifier's own; ensemble = the leave-out ensemble's."
)
MISTAKES = (
    "Whether classifiers know their mistakes on the ID test set, by their highest probability, in %: the "
    "error, the area under the risk-coverage curve (AURC, 0 is best), its excess over the best order "
    "(E-AURC), how well mistakes are told from right predictions (uncertain where they are few), and how far "
    "probabilities are from accuracies."
)
LEFT_OUT = (
    "the filtered numbers leave out: exact or else near duplicates of images that something is learnt from "
    "or chosen on (for OOD sets also of ID test images), and images of a class shared with the ID set."
)
SPREAD = (
    "mean ± standard deviation over seeds, for a single seed with the 95 % interval over images "
    "or, of `ssdk`, the standard deviation over its repeats"
)
# SSD_k has seen images of the very OOD set it is tested on, so it is never called the best detector
INFORMED = {"ssdk"}


@dataclass(frozen=True)
class Findings:
    """All results: `rows` (one per stage x model x detector x seed x set), accuracies, the audit beside them.

    `roles` maps OOD sets to near or far, `margin` is the AUROC up to which the control's mark is set.
    """

    id: str
    rows: pd.DataFrame
    accuracy: pd.DataFrame
    mistaken: pd.DataFrame
    audit: Audit
    margin: float
    roles: Mapping[str, str]

    @cached_property
    def metrics(self) -> list[str]:
        return [name for name in HEADLINE if name in self.rows.columns]

    @cached_property
    def groups(self) -> pd.DataFrame:
        return by_group(self.rows, self.metrics)

    @cached_property
    def by_role(self) -> pd.DataFrame:
        return over_seeds(self.groups, self.metrics)

    @cached_property
    def by_set(self) -> pd.DataFrame:
        return over_seeds(self.rows, self.metrics, by="set")

    @cached_property
    def control(self) -> dict[str, float]:
        """Return {set or role: AUROC of the artefact control}."""
        by_set = control(self.audit)
        return by_set | of_roles(by_set, self.roles)

    @cached_property
    def equals(self) -> set[tuple]:
        """Return the keys by set that no seed shows to be worse than the best; by role: so on every set."""
        found = marked(self.rows)
        return found | group_equals(found, self.by_set, self.roles)

    def marks(self, summary: pd.DataFrame, *, equals: bool = True) -> dict[tuple, str]:
        """Return {key of `summary`: signs}: near the control, and with `equals` no worse than the best."""
        low = near_control(summary, self.control, self.margin)
        like_best = self.equals if equals else set()
        return {
            key: (LIKE_CONTROL if key in low else "") + (LIKE_BEST if key in like_best else "")
            for key in summary.index
            if key in low or key in like_best
        }

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


def write_metrics(folder: Path, found: Findings) -> None:
    """Write one small JSON per model x detector and per model: means over sets and seeds, as fractions.

    Few and stable keys: they are what `dvc metrics show` and `dvc metrics diff` print.
    """
    for (model, detector), part in found.by_role.groupby(level=["model", "detector"], sort=False):
        values = {
            f"{role}_{metric}": round(float(part.loc[(model, detector, role), (metric, "mean")]), 6)
            for role in part.index.get_level_values("role")
            for metric in ("auroc", "fpr95_id")
        }
        save_json(folder / "ood" / f"{model}.{detector}.json", values)
    for model, part in found.accuracy.groupby("model", sort=False):
        means = part.drop(columns=["model", "seed"]).mean().dropna()
        values = {f"accuracy_{probe}": round(float(value), 6) for probe, value in means.items()}
        save_json(folder / "accuracy" / f"{model}.json", values)


def nested(by_set: pd.DataFrame, metrics: list[str]) -> dict:
    """Return {model: {detector: {set: {metric: {mean, std, n}}}}}; std is absent for one seed."""
    content: dict = {}
    for (model, detector, name), row in by_set.iterrows():
        place = content.setdefault(model, {}).setdefault(detector, {}).setdefault(name, {})
        for metric in metrics:
            parts = {part: float(row[(metric, part)]) for part in ("mean", "std")}
            place[metric] = {part: round(value, 6) for part, value in parts.items() if not np.isnan(value)}
            place[metric]["n"] = int(row[(metric, "count")])
    return content


def accuracy_note(accuracy: pd.DataFrame) -> str:
    """Return the sentence that explains the columns of accuracies."""
    transfer = any(name.startswith("transfer_") for name in accuracy.columns)
    return ACCURACY + (
        " Transfer: the linear probe on the images and classes of that set." if transfer else ""
    )


def write_tables(folder: Path, found: Findings) -> None:
    """Write summary.json and results.csv (every number), table.md (the overview) and per_set.md."""
    save_json(folder / "summary.json", nested(found.by_set, found.metrics))
    save_text(folder / "results.csv", found.rows.round(6).to_csv(index=False, lineterminator="\n"))
    signs = found.marks(found.by_role, equals=False)
    text = (
        "AUROC in %, near-OOD / far-OOD: unweighted means over the sets of a group, then over seeds "
        f"({found.rows['seed'].nunique()}). Best in bold, `ssdk` aside: it has seen images of the "
        "OOD set.\n\n"
        + tables.overview(found.by_role, "auroc", INFORMED, signs)
        + f"\n{legend(found.margin)} {found.alone()}\n"
        + f"\n{accuracy_note(found.accuracy)} Mean ± standard deviation over seeds.\n\n"
        + tables.accuracy_table(found.accuracy)
    )
    if len(found.mistaken):
        text += f"\n{MISTAKES}\n\n{mistakes_table(found.mistaken)}"
    save_text(folder / "table.md", text)
    save_text(folder / "per_set.md", _per_set(found))


def _per_set(found: Findings) -> str:
    rows, by_set = found.rows, found.by_set
    header, *lines = sets_table(found.audit)
    parts = [
        f"AUROC / FPR95 (ID positive) in %, {SPREAD}, best mean AUROC first.\n",
        tables.per_set(
            by_set, ["auroc", "fpr95_id"], marks=found.marks(by_set), intervals=interval_notes(rows)
        ),
        f"{legend(found.margin)} {LEGEND}\n",
        f"The sets: AUROC of the artefact control in %, and how many images {LEFT_OUT}\n",
        tables.markdown(header, lines),
    ]
    if found.audit.left_out_in_all:
        columns = ["filtered_auroc", "filtered_fpr95_id"]
        filtered = over_seeds(rows, columns, by="set")
        parts += [
            "The first table without the images to leave out, on both sides.\n",
            tables.per_set(filtered, columns, "filtered_auroc"),
        ]
    return "\n".join([*parts, "The columns of results.csv:\n", columns_list(rows.columns)])
