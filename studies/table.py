"""One table over the parts of a study: each model and detector, near and far, with what it is worth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from sslood.report.frame import is_informed

KEYS = ["part", "stage", "model", "detector"]
CHANCE = 0.05  # of an interval to miss
DIGITS = 6
BEST = "best"  # of all detectors, as one more
MEANS = {"auroc": "auroc", "fpr95_id": "fpr95", "auroc_low": "low", "auroc_high": "high"}


@dataclass(frozen=True)
class Rows:
    """groups: one row per stage, model, detector and role, see `over_seeds`; accuracy: one per model."""

    groups: pd.DataFrame
    accuracy: pd.DataFrame


def read_rows(part: str, folder: Path) -> Rows:
    """Return the rows of one part, from the files that `results.gather` copied; empty for a command."""
    results, accuracy = folder / "results.csv", folder / "accuracy.csv"
    groups = over_seeds(part, pd.read_csv(results)) if results.is_file() else pd.DataFrame()
    known = pd.read_csv(accuracy) if accuracy.is_file() else pd.DataFrame({"model": []})
    return Rows(groups, known)


def over_seeds(part: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return means over the sets of each role, then over seeds, as fractions.

    rows: those of results.csv. Columns: KEYS, role; seeds and sets, their numbers; n_id and n_ood, images of
    one seed; auroc, fpr95, auroc_std (over seeds). A row that lacks a set of its role has no mean in that
    seed: it would be over other sets than its rivals'. low and high: 95 % interval of the mean AUROC over
    images, the mean of the sets' own intervals: as wide as if the errors of all sets went together.
    seed_low and seed_high: 95 % interval over seeds (Student's), none for one seed.
    """
    rows = rows.assign(part=part)
    for name in MEANS:
        if name not in rows:
            rows[name] = np.nan
    by_seed = rows.groupby([*KEYS, "role", "seed"], sort=False, dropna=False)
    means = by_seed[list(MEANS)].agg(lambda values: values.mean(skipna=False)).rename(columns=MEANS)
    means["sets"], means["n_ood"] = by_seed["set"].nunique(), by_seed["n_ood"].sum()
    means["n_id"] = by_seed["n_id"].first()
    whole = rows.groupby("role")["set"].nunique()
    means = means[means["sets"].to_numpy() == whole[means.index.get_level_values("role")].to_numpy()]
    runs = means.reset_index().groupby([*KEYS, "role"], sort=False, dropna=False)
    out = runs[[*MEANS.values(), "sets", "n_id", "n_ood"]].mean()
    out["auroc_std"], out["seeds"] = runs["auroc"].std(ddof=1), runs["seed"].nunique()
    spread = out["auroc_std"] / np.sqrt(out["seeds"])
    reach = spread * student.ppf(1 - CHANCE / 2, (out["seeds"] - 1).clip(lower=1))
    out["seed_low"], out["seed_high"] = (out["auroc"] - reach).clip(0, 1), (out["auroc"] + reach).clip(0, 1)
    order = [
        "seeds",
        "sets",
        "n_id",
        "n_ood",
        "auroc",
        "auroc_std",
        "low",
        "high",
        "seed_low",
        "seed_high",
        "fpr95",
    ]
    out = out[order].round(DIGITS)
    whole = ["seeds", "sets", "n_id", "n_ood"]
    out[whole] = out[whole].round().astype(int)
    return out.reset_index()


def bests(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the `best` row of each model and role of one part, its detector called BEST."""
    pairs = groups[["model", "role"]].drop_duplicates().itertuples(index=False)
    rows = [row for model, role in pairs if (row := best(groups, model, role)) is not None]
    return pd.DataFrame(rows).assign(detector=BEST)


def best(groups: pd.DataFrame, model: str, role: str) -> pd.Series | None:
    """Return the row of a model with the highest AUROC on a role, of detectors that have seen no OOD images;
    None if there is none."""
    informed = groups["detector"].map(is_informed)
    rows = groups[(groups["model"] == model) & (groups["role"] == role) & ~informed]
    rows = rows.dropna(subset=["auroc"])
    return None if rows.empty else rows.loc[rows["auroc"].idxmax()]
