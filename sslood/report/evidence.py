"""What each number is worth: an interval, a test against the best detector, an artefact control, an audit.

Intervals and tests are about the images of one run; the spread over seeds is shown apart from them.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.ood.measures.comparison import Scores, delong_test, holm
from sslood.ood.measures.intervals import NEEDS, delong_interval
from sslood.ood.measures.metrics import ood_metrics
from sslood.report.cells import percent
from sslood.report.columns import FILTERED, MAIN, WITH_FILTERED
from sslood.report.frame import Key, ScoreFiles, informed

LEVEL = 0.05  # of the test
FEWEST = max(need.images for need in NEEDS)  # images of a set that has an interval and a test
NEAR_CONTROL, NEAR_BEST = "†", "‡"  # what they mean is written in templates/notes.j2


@dataclass(frozen=True)
class Audit:
    """The audit of the image sets.

    sets: its numbers for each set, the ID set included. limits: what sets miss, by name. excluded: positions
    in the test split of each set of the images that the filtered metrics leave out.
    """

    path: Path
    id: str
    sets: Mapping[str, Mapping[str, Any]]
    excluded: Mapping[str, np.ndarray]
    limits: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)

    @property
    def n_excluded(self) -> int:
        return sum(map(len, self.excluded.values()))

    def control(self) -> dict[str, float]:
        """Return {OOD set: AUROC of the artefact control}, in the better of its two directions.

        The direction, rougher or smoother than the ID set, is chosen on the test set on purpose: the control
        asks how much could be reached without any content, not how well a detector would do.
        """
        raw = {name: one["control_auroc"] for name, one in self.sets.items() if name != self.id}
        return {name: max(value, 1 - value) for name, value in raw.items()}


def read_audit(path: Path, sets: Collection[str]) -> Audit:
    """Return the audit of `sets`, ID and OOD; InputError if the file is missing or lacks one of them."""
    tensors, metadata = load_tensors(path, kind="audit")
    for name in sets:
        if name not in metadata["sets"]:
            raise InputError(f"{path}: does not hold set {name!r}; run `dvc repro audit`")
    excluded = {name: tensors[f"{name}.left_out"] for name in sets}
    own = {name: metadata["sets"][name] for name in sets}
    return Audit(path, metadata["id"], own, excluded, metadata.get("limits", {}))


def of_roles(by_set: Mapping[str, float], roles: Mapping[str, str]) -> dict[str, float]:
    """Return {near or far: mean over its sets}."""
    return {
        role: float(np.mean([value for name, value in by_set.items() if roles[name] == role]))
        for role in dict.fromkeys(roles.values())
    }


def with_significance(rows: pd.DataFrame, scores: ScoreFiles) -> pd.DataFrame:
    """Return `rows` (of `collect`) with auroc_low and auroc_high, 95 % by DeLong, and p_best.

    p_best is the Holm-adjusted p-value of no difference from the detector with the highest AUROC for the same
    seed and set; NaN for detectors that are `informed`, which are tested on fewer images. A mean over repeats
    has no interval, since its scores are those of the first repeat alone; a set of one image has neither.
    Raises InputError for missing scores.
    """
    pairs = [scores.read(row)[0] for row in rows.to_dict("records")]
    testable = np.array([min(len(pair.id), len(pair.ood)) >= FEWEST for pair in pairs])
    intervals = np.array(
        [
            delong_interval(pair.id, pair.ood) if able else (np.nan, np.nan)
            for pair, able in zip(pairs, testable, strict=True)
        ]
    )
    low, high = np.where(_repeated(rows), np.nan, intervals.T)
    p_best = pd.Series(np.nan, index=rows.index)
    rivals = rows[~informed(rows["detector"]) & testable]
    for _, part in rivals.groupby(["seed", "set"], sort=False):
        compared = {label: pairs[rows.index.get_loc(label)] for label in part.index}
        p_best[part.index] = against_best(compared, part[MAIN].idxmax())
    return rows.assign(**{f"{MAIN}_low": low, f"{MAIN}_high": high, "p_best": p_best})


def against_best(scores: Mapping[Hashable, Scores], best: Hashable) -> list[float]:
    """Return for each detector the adjusted p-value of no difference from `best`, whose own is 1."""
    others = [key for key in scores if key != best]
    p_values = holm([delong_test(scores[best], scores[key]).p_value for key in others])
    by_key = dict(zip(others, p_values.tolist(), strict=True))
    return [by_key.get(key, 1.0) for key in scores]


def _repeated(rows: pd.DataFrame) -> pd.Series:
    """Return whether the metrics of a row are means over repeats: bool [rows]."""
    return rows["repeats"] > 1 if "repeats" in rows else pd.Series(False, index=rows.index)


def interval_notes(rows: pd.DataFrame) -> dict[Key, str]:
    """Return {(model, detector, set): "[86.1, 87.4]" or "± 0.4 (5 repeats)"}, in %, of what has one seed."""
    keys = ["model", "detector", "set"]
    once = rows[rows.groupby(keys)["seed"].transform("count") == 1]
    notes = {}
    for row, repeated in zip(once.to_dict("records"), _repeated(once), strict=True):
        note = f"[{percent(row[f'{MAIN}_low'])}, {percent(row[f'{MAIN}_high'])}]"
        if repeated and "repeats" in row and f"{MAIN}_std" in row:
            note = f"± {percent(row[f'{MAIN}_std'])} ({row['repeats']:.0f} repeats)"
        notes[row["model"], row["detector"], row["set"]] = note
    return notes


def with_audit(rows: pd.DataFrame, scores: ScoreFiles, audit: Audit) -> pd.DataFrame:
    """Return `rows` with control_auroc and filtered_<metric>: metrics without the excluded images.

    If no image of a row is excluded, its filtered metrics are the raw ones; if all of a side are, NaN. The
    raw metrics of SSD_k are means over repeats, its filtered ones those of the first, whose scores are kept.
    Raises InputError if a file of scores does not fit the audit.
    """
    names = (*WITH_FILTERED, "n_id", "n_ood")
    filtered = []
    for row in rows.to_dict("records"):
        metrics: Mapping[str, float] = row
        if len(audit.excluded[audit.id]) or len(audit.excluded[row["set"]]):
            sides = _kept(row, scores, audit)
            metrics = ood_metrics(*sides) if all(map(len, sides)) else dict.fromkeys(names, np.nan)
        filtered.append({f"{FILTERED}{name}": metrics[name] for name in names})
    control = rows["set"].map(audit.control())
    return pd.concat([rows.assign(control_auroc=control), pd.DataFrame(filtered, index=rows.index)], axis=1)


def _kept(row: Mapping[str, Any], scores: ScoreFiles, audit: Audit) -> tuple[np.ndarray, np.ndarray]:
    """Return the (ID, OOD) scores of a row without the excluded images."""
    pair, positions = scores.read(row)
    sides = []
    for name, values, places in (
        (audit.id, pair.id, np.arange(len(pair.id))),
        (row["set"], pair.ood, positions),
    ):
        if len(places) and places[-1] >= audit.sets[name]["n"]:
            raise InputError(
                f"{scores.path(row)}: has more images of {name!r} than {audit.path}; run `dvc repro`"
            )
        sides.append(values[~np.isin(places, audit.excluded[name])])
    return sides[0], sides[1]


def near_control(summary: pd.DataFrame, control: Mapping[str, float], margin: float) -> set[Key]:
    """Return the keys (model, detector, set or role) whose mean AUROC is at most `margin` above the control.

    `summary` is what `over_seeds` returns; `control` maps the third part of a key to the control's AUROC.
    """
    means = summary[(MAIN, "mean")]
    # half a unit of the last decimal that is kept, so that rounding decides nothing
    return {key for key, value in means.items() if value - control[key[2]] <= margin + 5e-7}


def near_best(rows: pd.DataFrame) -> set[Key]:
    """Return the (model, detector, set) that are not significantly worse than the best in any seed."""
    least = rows.groupby(["model", "detector", "set"], sort=False)["p_best"].min()
    return set(least.index[least > LEVEL])


def in_whole_groups(keys: Collection[Key], roles: Mapping[str, str]) -> set[Key]:
    """Return the (model, detector, role) that are among `keys`, by set, on every set of the role."""
    pairs = {key[:2] for key in keys}
    tested = {key[2] for key in keys}  # a set of one image has no test
    groups: dict[str, Sequence[str]] = {
        role: [name for name, own in roles.items() if own == role and name in tested]
        for role in dict.fromkeys(roles.values())
    }
    return {
        (*pair, role)
        for role, sets in groups.items()
        for pair in pairs
        if sets and all((*pair, name) in keys for name in sets)
    }
