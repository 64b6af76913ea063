"""Whether classifiers know their own mistakes: selective classification, from the results of `probe`."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sslood.core.files import load_json
from sslood.report.tables import markdown, percent

COLUMNS = {
    "error": "error",
    "aurc": "AURC ×10³",
    "eaurc": "E-AURC ×10³",
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
                head = {"error": 1 - found["head"]["accuracy"], **found["head"]}
                rows.append({"model": model, "seed": seed} | {key: head.get(key) for key in COLUMNS})
    return pd.DataFrame(rows, columns=["model", "seed", *COLUMNS])


def mistakes_frame(rows: pd.DataFrame, *, spread: bool) -> pd.DataFrame:
    """Return classifiers x columns as text, mean over seeds and, with `spread`, ± standard deviation.

    Percentages, AURC and E-AURC in thousandths: they are areas under a curve of small errors.
    """
    grouped = rows.astype(dict.fromkeys(COLUMNS, float)).groupby("model", sort=False)[list(COLUMNS)]
    scale = {key: 10.0 if key.endswith("aurc") else 1.0 for key in COLUMNS}
    cells = {"model": []} | {title: [] for title in COLUMNS.values()}
    for model, row in grouped.agg(["mean", "std"]).iterrows():
        cells["model"].append(model)
        for key, title in COLUMNS.items():
            std = scale[key] * row[(key, "std")] if spread else None
            cells[title].append(percent(scale[key] * row[(key, "mean")], std))
    return pd.DataFrame(cells)


def mistakes_table(rows: pd.DataFrame) -> str:
    """Return classifiers x columns as a Markdown table, mean ± standard deviation over seeds."""
    frame = mistakes_frame(rows, spread=True)
    lines = [[f"`{model}`", *cells] for model, *cells in frame.itertuples(index=False)]
    return markdown(list(frame.columns), lines)
