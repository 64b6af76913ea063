"""The audit of the image sets beside the results: the artefact control, and numbers without overlaps."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.ood.measures.metrics import ood_metrics
from sslood.report.results import scores_file
from sslood.report.tables import percent

MARK = "†"
FILTERED = ("auroc", "fpr95_id", "fpr95_ood", "n_id", "n_ood")


@dataclass(frozen=True)
class Audit:
    """sets: the audit's numbers per set, the ID set's among them; left_out: positions in the test splits."""

    path: Path
    id: str
    sets: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, np.ndarray]

    @property
    def left_out_in_all(self) -> int:
        return sum(map(len, self.left_out.values()))


def read_audit(path: Path, sets: Collection[str]) -> Audit:
    """Return the audit of `sets`, the ID set and the OOD sets; InputError if it is missing or lacks one."""
    names = list(sets)
    tensors, about = load_tensors(path, kind="audit")
    for name in names:
        if name not in about["sets"]:
            raise InputError(f"{path}: does not hold set {name!r}; run `dvc repro audit`")
    left_out = {name: tensors[f"{name}.left_out"] for name in names}
    return Audit(path, about["id"], {name: about["sets"][name] for name in names}, left_out)


def control(audit: Audit) -> dict[str, float]:
    """Return {OOD set: AUROC of the artefact control}, of the better of its two directions.

    Rougher or smoother than the ID set: that the direction is chosen on the test set is no slip, since
    the control asks how much could be had without any content, and not how a detector would do.
    """
    raw = {name: one["control_auroc"] for name, one in audit.sets.items() if name != audit.id}
    return {name: max(value, 1 - value) for name, value in raw.items()}


def near_control(summary: pd.DataFrame, reference: Mapping[str, float], margin: float) -> set[tuple]:
    """Return the keys (model, detector, set or role) whose mean AUROC is at most `margin` above the control.

    `summary` is what `over_seeds` returns; `reference` maps its third key to the control's AUROC.
    """
    means = summary[("auroc", "mean")]
    # half a unit of the sixth decimal, to which results are kept, so that rounding decides nothing
    return {key for key, value in means.items() if value - reference[key[2]] <= margin + 5e-7}


def of_roles(reference: Mapping[str, float], roles: Mapping[str, str]) -> dict[str, float]:
    """Return {near or far: mean of the control over its sets}."""
    return {
        role: float(np.mean([value for name, value in reference.items() if roles[name] == role]))
        for role in dict.fromkeys(roles.values())
    }


def with_audit(rows: pd.DataFrame, scores: Path, audit: Audit) -> pd.DataFrame:
    """Return `rows` with control_auroc and filtered_<metric>: metrics without the images to leave out.

    Where neither side loses an image the filtered numbers are the raw ones, NaN where a side loses all.
    SSD_k's raw numbers are means over its repeats, its filtered ones are of the first, whose scores are kept.
    Raises InputError if a score file does not fit the audit.
    """
    reference = control(audit)
    files: dict[Path, Mapping[str, np.ndarray]] = {}
    found = []
    for row in rows.to_dict("records"):
        if len(audit.left_out[audit.id]) or len(audit.left_out[row["set"]]):
            path = scores_file(scores, row["stage"], row["model"], row["seed"])
            if path not in files:
                files[path] = load_tensors(path, kind="scores")[0]
            sides = _kept_scores(files[path], path, row, audit)
            metrics = ood_metrics(*sides) if all(map(len, sides)) else dict.fromkeys(FILTERED, np.nan)
        else:
            metrics = row
        found.append({f"filtered_{name}": metrics[name] for name in FILTERED})
    extra = pd.DataFrame(found, index=rows.index)
    return pd.concat([rows.assign(control_auroc=rows["set"].map(reference)), extra], axis=1)


def _kept_scores(found: Mapping[str, np.ndarray], path: Path, row: Mapping, audit: Audit):
    """Return (ID scores, OOD scores) of a result without the images to leave out."""
    here = f"{row['model']}.{row['detector']}"
    own = f"{here}.{audit.id}.{row['set']}"  # where a detector's ID scores depend on the OOD set
    id_scores = found[own if own in found else f"{here}.{audit.id}"]
    ood_scores = found[f"{here}.{row['set']}"]
    # SSD_k's known images have left the test set already
    places = found.get(f"{here}.{row['set']}.index", np.arange(len(ood_scores)))
    sides = []
    for name, values, position in (
        (audit.id, id_scores, np.arange(len(id_scores))),
        (row["set"], ood_scores, places),
    ):
        if len(position) and position[-1] >= audit.sets[name]["n"]:
            raise InputError(f"{path}: has more images of {name!r} than {audit.path}; run `dvc repro`")
        sides.append(values[~np.isin(position, audit.left_out[name])])
    return sides


def sets_table(audit: Audit) -> list[list[str]]:
    """Return the header and a row per set: size, control, how many images are left out and why."""
    header = ["set", "role", "images", "control", "than ID", "exact", "near", "class", "left out"]
    rows = [header]
    for name, one in audit.sets.items():
        raw = one.get("control_auroc")
        side = "–" if raw is None else "rougher" if raw >= 0.5 else "smoother"
        counts = [f"{one[key]:,}" for key in ("exact", "near", "class", "left_out")]
        value = "–" if raw is None else percent(max(raw, 1 - raw))
        rows.append([name, one["role"], f"{one['n']:,}", value, side, *counts])
    return rows


def legend(margin: float) -> str:
    """Return the sentence that explains the mark."""
    return (
        f"{MARK} = at most {100 * margin:.1f} points of AUROC above the artefact control, a number per image "
        "that knows nothing of its content (mean absolute gradient over standard deviation, in the better "
        "direction): such a figure does not show that content is detected."
    )
