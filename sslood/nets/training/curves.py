"""Curves of a run as CSV, one row per epoch, for `dvc plots`."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from sslood.core.files import save_text


def save_curves(path: str | Path, curves: Sequence[Mapping[str, float]]) -> None:
    """Write the rows of `run_epochs`, epochs counted from 1, values to 6 digits, no timings.

    Values that an epoch did not measure stay empty.
    """
    names = list(dict.fromkeys(name for row in curves for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", *names], lineterminator="\n")
    writer.writeheader()
    for epoch, row in enumerate(curves, 1):
        writer.writerow({"epoch": epoch, **{name: f"{value:.6g}" for name, value in row.items()}})
    save_text(path, text.getvalue())
