"""What chance can explain: an interval for every AUROC, and whether a detector is worse than the best one.

Both are about the images of one run. The spread over seeds is another thing and stands apart.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.artefacts import load_tensors
from stages.core.errors import InputError
from stages.ood.comparison import Scores, delong_test, holm
from stages.ood.intervals import delong_interval
from stages.report.tables import percent

LEVEL = 0.05
MARK = "†"
LEGEND = (
    f"{MARK}: not significantly worse than the set's best detector of the same seed, in any seed "
    f"(paired DeLong test on the same images, Holm-corrected, {100 * LEVEL:.0f} %)."
)


def scores_file(folder: Path, stage: str, model: str, seed: int) -> Path:
    """Return the file with the scores of a row; some stages name it after the model too."""
    names = {"ensemble": model.removeprefix("leaveout_"), "network": f"{model}-{seed}"}
    return folder / stage / f"{names.get(stage, seed)}.safetensors"


def with_significance(rows: pd.DataFrame, folder: Path, id_name: str, aside: Collection[str]) -> pd.DataFrame:
    """Return `rows` with auroc_low and auroc_high, 95 % by DeLong, and p_best.

    `rows` is what `collect` returns, `folder` that of the scores. p_best is the Holm-adjusted p-value of no
    difference to the detector with the highest AUROC for the same seed and set; NaN for detectors in
    `aside`, which are tested on fewer images. InputError if scores of a row are not in their file.
    """
    found = [_of_row(row, folder, id_name) for row in rows.itertuples()]
    intervals = [delong_interval(scores.id, scores.ood) for scores in found]
    low, high = np.array(intervals).T
    p_best = pd.Series(np.nan, index=rows.index)
    fair = rows[~rows["detector"].isin(aside)]
    for _, part in fair.groupby(["seed", "set"], sort=False):
        scores = {label: found[rows.index.get_loc(label)] for label in part.index}
        p_best[part.index] = against_best(scores)
    return rows.assign(auroc_low=low, auroc_high=high, p_best=p_best)


def against_best(scores: Mapping[object, Scores]) -> list[float]:
    """Return for each detector the adjusted p-value against the one of highest AUROC, whose own is 1."""
    keys = list(scores)
    aurocs = [delong_test(scores[keys[0]], scores[key]).value for key in keys]
    best = scores[keys[int(np.argmax(aurocs))]]
    others = [place for place in range(len(keys)) if place != int(np.argmax(aurocs))]
    p_values = np.ones(len(keys))
    p_values[others] = holm([delong_test(best, scores[keys[place]]).p_value for place in others])
    return p_values.tolist()


def _of_row(row, folder: Path, id_name: str) -> Scores:
    path = scores_file(folder, row.stage, row.model, row.seed)
    arrays, _ = load_tensors(path, kind="scores")
    here = f"{row.model}.{row.detector}"
    # SSD_k scores the ID images anew for every OOD set
    inside = arrays.get(f"{here}.{id_name}.{row.set}", arrays.get(f"{here}.{id_name}"))
    outside = arrays.get(f"{here}.{row.set}")
    if inside is None or outside is None:
        raise InputError(f"{path}: no scores of {here} for {row.set}; run `dvc repro {row.stage}` again")
    return Scores(inside, outside)


def interval_notes(rows: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Return (model, detector, set) -> "[86.1, 87.4]" in percent, for what was run once; nothing else."""
    keys = ["model", "detector", "set"]
    once = rows.groupby(keys)["seed"].transform("count") == 1
    return {
        tuple(getattr(row, key) for key in keys): f"[{percent(row.auroc_low)}, {percent(row.auroc_high)}]"
        for row in rows[once].itertuples()
    }


def marked(rows: pd.DataFrame) -> set[tuple[str, str, str]]:
    """Return the (model, detector, set) that no seed shows to be worse than its best."""
    least = rows.groupby(["model", "detector", "set"], sort=False)["p_best"].min()
    return set(least.index[least > LEVEL])
