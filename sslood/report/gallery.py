"""A page that shows scored pictures from the most to the least OOD; one file that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.names import shown
from sslood.data.sets.depth import Levels
from sslood.data.sets.images import read_image
from sslood.report.pictures import thumbnail
from sslood.report.render import render

SIDE = 192  # pixels of a thumbnail's longer side; shown at two thirds of it
BINS = 20  # bars of the histogram of p-values


def gallery(
    rows: Sequence[Mapping[str, Any]],
    images: Path,
    title: str,
    facts: Mapping[str, str],
    *,
    count: int,
    levels: Levels | None = None,
) -> str:
    """Return the HTML page of scored pictures; `images` is the folder that their paths start from.

    rows: path, score, p_value, is_ood (bool) and predicted_class ("" without a classifier) of each picture,
    and `file` if it is elsewhere.
    facts: what else to say above the pictures, name -> text. levels: of the ID set, for pictures of more than
    8 bits. Of more than `count` pictures it shows `count`,
    at even steps of rank from first to last. Raises InputError naming a picture that can no longer be read.
    """
    ranked = sorted(rows, key=lambda row: (-row["score"], row["path"]))
    steps = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    places = np.unique(steps.round().astype(int)).tolist()
    pictures = [_card(ranked[place], place + 1, images, levels) for place in places]
    p_values = {flag: [row["p_value"] for row in rows if row["is_ood"] == flag] for flag in (True, False)}
    groups = [
        (heading, [picture for picture in pictures if picture["is_ood"] == flag], len(p_values[flag]))
        for heading, flag in (("Out-of-distribution", True), ("In-distribution", False))
    ]
    bars = np.stack([np.histogram(p_values[flag], BINS, (0.0, 1.0))[0] for flag in (True, False)], axis=1)
    return render(
        "gallery.html.j2",
        title=title,
        facts=facts,
        n_ood=len(p_values[True]),
        total=len(rows),
        shown=len(pictures),
        groups=groups,
        bars=bars.tolist(),
    )


def _card(row: Mapping[str, Any], rank: int, images: Path, levels: Levels | None) -> dict[str, Any]:
    picture = read_image(row.get("file", images / row["path"]), levels=levels)
    texts = {key: shown(row[key]) for key in ("path", "predicted_class")}
    return {**row, **texts, "rank": rank, "thumbnail": thumbnail(picture, SIDE)}
