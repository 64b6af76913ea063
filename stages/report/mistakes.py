"""Whether classifiers know their own mistakes: selective classification, from the results of `probe`."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from stages.core.artefacts import load_json
from stages.report.tables import markdown, percent

COLUMNS = {
    "aurc": "AURC",
    "eaurc": "E-AURC",
    "mistakes_auroc": "AUROC of mistakes",
    "mistakes_fpr95": "FPR95 of mistakes",
    "ece": "calibration error",
}


def mistakes(probes: Iterable[tuple[int, Path]]) -> pd.DataFrame:
    """Return one row per classifier x seed: model, seed, and the columns of COLUMNS, as fractions.

    `probes` holds (seed, results of the probe stage). Empty where no model has a head.
    """
    rows = []
    for seed, path in probes:
        for model, found in load_json(path)["models"].items():
            if "aurc" in found.get("head", {}):
                rows.append({"model": model, "seed": seed} | {key: found["head"].get(key) for key in COLUMNS})
    return pd.DataFrame(rows, columns=["model", "seed", *COLUMNS])


def mistakes_table(rows: pd.DataFrame) -> str:
    """Return classifiers x columns in percent, mean ± standard deviation over seeds."""
    grouped = rows.astype(dict.fromkeys(COLUMNS, float)).groupby("model", sort=False)[list(COLUMNS)]
    lines = [
        [f"`{model}`", *(percent(row[(key, "mean")], row[(key, "std")]) for key in COLUMNS)]
        for model, row in grouped.agg(["mean", "std"]).iterrows()
    ]
    return markdown(["model", *COLUMNS.values()], lines)
