"""A page that shows scored images from the most to the least OOD; one file that needs nothing else."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.data.sets.images import read_image
from sslood.report.pictures import thumbnail
from sslood.report.render import render

SIDE = 192  # pixels of a thumbnail's longer side; shown at two thirds of it
BINS = 20  # bars of the histogram of p-values


def gallery(table: Path, images: Path, title: str, facts: Mapping[str, str], *, count: int) -> str:
    """Return the HTML page of a CSV of sslood.commands.score; `images` is the folder its paths start from.

    facts: what else to say above the images, name -> text. Of more than `count` images it shows `count`, at
    even steps of rank from first to last. Raises InputError naming an image that can no longer be read.
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = [_parse(row) for row in csv.DictReader(file)]
    rows.sort(key=lambda row: (-row["score"], row["path"]))
    shown = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)).tolist()
    pictures = [
        rows[place]
        | {"rank": place + 1, "thumbnail": thumbnail(read_image(images / rows[place]["path"]), SIDE)}
        for place in shown
    ]
    p = {flag: [row["p_value"] for row in rows if row["is_ood"] == flag] for flag in (True, False)}
    n_ood = len(p[True])
    groups = [
        (heading, [picture for picture in pictures if picture["is_ood"] == flag], len(p[flag]))
        for heading, flag in (("Out-of-distribution", True), ("In-distribution", False))
    ]
    bars = np.stack([np.histogram(p[flag], BINS, (0.0, 1.0))[0] for flag in (True, False)], axis=1).tolist()
    return render(
        "gallery.html.j2",
        title=title,
        facts=facts,
        n_ood=n_ood,
        total=len(rows),
        shown=len(pictures),
        groups=groups,
        bars=bars,
    )


def _parse(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of the CSV with its numbers and its truth value."""
    numbers = {name: float(row[name]) for name in ("score", "p_value")}
    return {**row, **numbers, "is_ood": row["is_ood"] == "true"}
