"""A page that shows scored pictures from the most to the least OOD; one file that needs nothing else.

Its script filters the pictures, moves the threshold and saves the marked ones as a table; without it the page
shows what was decided. It loads nothing and sends nothing, which its content policy makes sure of.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslood.core.names import cell, path_cell, shown
from sslood.data.sets.crops import Box, split_box, with_box
from sslood.data.sets.depth import Levels
from sslood.data.sets.images import read_image
from sslood.report.pictures import Thumbnail, thumbnail
from sslood.report.render import render

SIDE = 192  # pixels of a thumbnail's longer side; shown at two thirds of it
PICTURES, BOXES = ("picture", "pictures"), ("box", "boxes")  # what rows are
BINS = 20  # bars of the histogram of p-values
COLUMNS = ("path", "score", "p_value", "is_ood", "predicted_class")  # of the table of marked pictures
Row = Mapping[str, Any]


@dataclass(frozen=True)
class HeatLayer:
    """Colours to lay over a thumbnail: their data URL, their place, and the hottest value.

    The place is in shares of the square around the picture, from its upper left corner.
    """

    url: str
    left: float
    top: float
    width: float
    height: float
    hottest: float


@dataclass(frozen=True)
class NearestPicture:
    """An ID picture that a picture is like: its name, the cosine, and what the page shows if it is there."""

    name: str
    likeness: float
    thumbnail: Thumbnail | None = None
    link: str = ""


@dataclass(frozen=True)
class Extra:
    """What the page shows of a picture beside its score."""

    heat: HeatLayer | None = None
    nearest: Sequence[NearestPicture] = ()


def gallery(
    rows: Sequence[Row],
    images: Path,
    title: str,
    facts: Mapping[str, str],
    *,
    headline: str = "",
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
    count: int,
    levels: Levels | None = None,
    extras: Callable[[Row, Image.Image], Extra] = lambda row, picture: Extra(),
) -> str:
    """Return the HTML page of scored pictures; `images` is the folder that their paths start from.

    rows: path, score, p_value, is_ood (bool) and predicted_class ("" without a classifier) of each picture,
    `file` if it is elsewhere, and texts that the table of marked pictures has too. facts: what else to say
    above the pictures, name -> text; headline: what stands before them, and warnings: sentences that make it
    an alarm; notes: others. levels: of the ID set, for pictures of more than 8 bits. It shows at most `count`
    pictures, by `shown_groups`. extras: what to show of one beside its score, given its row and the picture.
    Raises InputError naming a picture that can no longer be read.
    """
    ranked = by_rank(rows)
    nouns = BOXES if rows and all(_box(row) for row in rows) else PICTURES
    groups = shown_groups([row["is_ood"] for row in ranked], count)
    p_values = {flag: [row["p_value"] for row in rows if row["is_ood"] == flag] for flag in (True, False)}
    bars = np.stack([np.histogram(p_values[flag], BINS, (0.0, 1.0))[0] for flag in (True, False)], axis=1)
    cards = [
        (group, [_card(ranked[place], place + 1, images, levels, extras) for place in group.places])
        for group in groups
    ]
    steps, counts = np.unique([row["p_value"] for row in rows], return_counts=True)
    return render(
        "gallery.html.j2",
        title=title,
        facts=facts,
        headline=headline[:1].upper() + headline[1:],
        warnings=warnings,
        notes=notes,
        nouns=nouns,
        n_ood=len(p_values[True]),
        total=len(rows),
        shown=sum(len(group.places) for group in groups),
        groups=cards,
        bars=bars.tolist(),
        heated=any(card["extra"].heat for _, some in cards for card in some),
        line=max(p_values[True], default=0.0),
        script={
            "steps": steps.tolist(),
            "counts": counts.tolist(),
            "columns": _line(map(cell, (*COLUMNS, *_own(next(iter(rows), {}))))),
            "name": title,
            "nouns": nouns,
        },
    )


def by_rank(rows: Sequence[Row]) -> list[Row]:
    """Return scored pictures from the most to the least OOD."""
    return sorted(rows, key=lambda row: (-row["score"], row["path"]))


def shown_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """Return the rows that a page of `count` pictures shows, from the most to the least OOD."""
    ranked = by_rank(rows)
    groups = shown_groups([row["is_ood"] for row in ranked], count)
    return [ranked[place] for group in groups for place in group.places]


@dataclass(frozen=True)
class Group:
    """Pictures that stand together: heading, their places in the ranking, how many they are chosen from."""

    heading: str
    places: list[int]
    total: int


def shown_groups(flags: Sequence[bool], count: int) -> list[Group]:
    """Return which of the ranked pictures to show, at most `count`; flags: whether each is called OOD.

    First those that are called OOD, from the most OOD on. Of the room that they leave, half goes to the
    others that are nearest to OOD, where a mistake is likely, and half to a sample of the rest, at even steps
    of rank. What is empty is left out.
    """
    flagged = [place for place, flag in enumerate(flags) if flag]
    others = [place for place, flag in enumerate(flags) if not flag]
    groups = [Group("Out-of-distribution", flagged[:count], len(flagged))]
    room = count - len(flagged)
    if len(others) <= room:
        groups.append(Group("In-distribution", others, len(others)))
    elif room > 0:
        near, rest = others[: (room + 1) // 2], others[(room + 1) // 2 :]
        steps = np.linspace(len(rest) - 1, 0, room - len(near)).round().astype(int)[::-1].tolist()
        groups.append(Group("In-distribution, nearest to out-of-distribution", near, len(others)))
        groups.append(Group("In-distribution, a sample of the rest", [rest[n] for n in steps], len(rest)))
    return [group for group in groups if group.places]


def _card(
    row: Row, rank: int, images: Path, levels: Levels | None, extras: Callable[[Row, Image.Image], Extra]
) -> dict[str, Any]:
    picture = read_image(row.get("file", images / row["path"]), levels=levels)
    texts = {
        "path": shown(with_box(row["path"], _box(row))),
        "predicted_class": shown(row["predicted_class"]),
    }
    cells = {
        "path_cell": _line([path_cell(row["path"])]),
        "other_cells": _line(map(cell, (row["predicted_class"], *_own(row).values()))),
    }
    extra = extras(row, picture)
    return {**row, **texts, **cells, "rank": rank, "thumbnail": thumbnail(picture, SIDE), "extra": extra}


def _box(row: Row) -> Box | None:
    """Return the box that a row is of, None for a whole picture."""
    return split_box(row["file"])[1] if "file" in row and split_box(row["path"])[1] is None else None


def _own(row: Row) -> dict[str, Any]:
    """Return what a row holds beside a decision, such as the box that its list names."""
    return {key: value for key, value in row.items() if key not in (*COLUMNS, "file")}


def _line(texts: Iterable[str]) -> str:
    """Return cells as a CSV file writes them."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([*texts, ""])
    return out.getvalue()[:-1]
