"""What chance can explain: an interval for every AUROC, and whether a detector is worse than the best one.

Both are about the images of one run. The spread over seeds is another thing and stands apart.
"""

from collections.abc import Collection, Hashable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.ood.measures.comparison import Scores, delong_test, holm
from sslood.ood.measures.intervals import delong_interval
from sslood.report.results import scores_file
from sslood.report.tables import percent

LEVEL = 0.05
MARK = "‡"
LEGEND = (
    f"{MARK}: not significantly worse than the set's best detector of the same seed, in any seed "
    f"(paired DeLong test on the same images, Holm-corrected, {100 * LEVEL:.0f} %)."
)


def with_significance(rows: pd.DataFrame, folder: Path, id_name: str, aside: Collection[str]) -> pd.DataFrame:
    """Return `rows` with auroc_low and auroc_high, 95 % by DeLong, and p_best.

    A mean over repeats has no interval: the scores are those of the first one, whose AUROC is another.

    `rows` is what `collect` returns, `folder` that of the scores. p_best is the Holm-adjusted p-value of no
    difference to the detector with the highest AUROC for the same seed and set; NaN for detectors in
    `aside`, which are tested on fewer images. InputError if scores of a row are not in their file.
    """
    paths = [scores_file(folder, row.stage, row.model, row.seed) for row in rows.itertuples()]
    files = {path: load_tensors(path, kind="scores")[0] for path in dict.fromkeys(paths)}
    found = [
        _of_row(row, files[path], path, id_name) for row, path in zip(rows.itertuples(), paths, strict=True)
    ]
    intervals = [delong_interval(scores.id, scores.ood) for scores in found]
    low, high = np.where(_repeated(rows), np.nan, np.array(intervals).T)
    p_best = pd.Series(np.nan, index=rows.index)
    fair = rows[~rows["detector"].isin(aside)]
    for _, part in fair.groupby(["seed", "set"], sort=False):
        scores = {label: found[rows.index.get_loc(label)] for label in part.index}
        p_best[part.index] = against_best(scores, part["auroc"].idxmax())
    return rows.assign(auroc_low=low, auroc_high=high, p_best=p_best)


def against_best(scores: Mapping[Hashable, Scores], best: Hashable) -> list[float]:
    """Return for each detector the adjusted p-value of no difference to the `best` one, whose own is 1."""
    others = [key for key in scores if key != best]
    p_values = holm([delong_test(scores[best], scores[key]).p_value for key in others])
    found = dict(zip(others, p_values.tolist(), strict=True))
    return [found.get(key, 1.0) for key in scores]


def _of_row(row, arrays: Mapping[str, np.ndarray], path: Path, id_name: str) -> Scores:
    here = f"{row.model}.{row.detector}"
    # SSD_k scores the ID images anew for every OOD set
    inside = arrays.get(f"{here}.{id_name}.{row.set}", arrays.get(f"{here}.{id_name}"))
    outside = arrays.get(f"{here}.{row.set}")
    if inside is None or outside is None:
        raise InputError(f"{path}: no scores of {here} for {row.set}; run `dvc repro {row.stage}` again")
    return Scores(inside, outside)


def _repeated(rows: pd.DataFrame) -> pd.Series:
    """Return whether the metrics of a row are means over repeats: bool [rows]."""
    return rows["repeats"] > 1 if "repeats" in rows else pd.Series(False, index=rows.index)


def interval_notes(rows: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Return (model, detector, set) -> "[86.1, 87.4]" or "± 0.4 (5 repeats)", in %, for what has one seed."""
    keys = ["model", "detector", "set"]
    once = rows.groupby(keys)["seed"].transform("count") == 1
    notes = {}
    for row, repeated in zip(rows[once].itertuples(), _repeated(rows)[once], strict=True):
        note = f"[{percent(row.auroc_low)}, {percent(row.auroc_high)}]"
        if repeated:
            note = f"± {percent(row.auroc_std)} ({row.repeats:.0f} repeats)"
        notes[tuple(getattr(row, key) for key in keys)] = note
    return notes


def marked(rows: pd.DataFrame) -> set[tuple[str, str, str]]:
    """Return the (model, detector, set) that no seed shows to be worse than its best."""
    least = rows.groupby(["model", "detector", "set"], sort=False)["p_best"].min()
    return set(least.index[least > LEVEL])
