"""A page that shows scored pictures from the most to the least OOD; one file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    headline: str = "",
    warnings: Sequence[str] = (),
    count: int,
    levels: Levels | None = None,
) -> str:
    """Return the HTML page of scored pictures; `images` is the folder that their paths start from.

    rows: path, score, p_value, is_ood (bool) and predicted_class ("" without a classifier) of each picture,
    and `file` if it is elsewhere. facts: what else to say above the pictures, name -> text; headline: what
    stands before them, and warnings: sentences that make it an alarm. levels: of the ID set, for pictures of
    more than 8 bits. It shows at most `count` pictures, by `shown_groups`. Raises InputError naming a picture
    that can no longer be read.
    """
    ranked = sorted(rows, key=lambda row: (-row["score"], row["path"]))
    groups = shown_groups([row["is_ood"] for row in ranked], count)
    p_values = {flag: [row["p_value"] for row in rows if row["is_ood"] == flag] for flag in (True, False)}
    bars = np.stack([np.histogram(p_values[flag], BINS, (0.0, 1.0))[0] for flag in (True, False)], axis=1)
    return render(
        "gallery.html.j2",
        title=title,
        facts=facts,
        headline=headline[:1].upper() + headline[1:],
        warnings=warnings,
        n_ood=len(p_values[True]),
        total=len(rows),
        shown=sum(len(group.places) for group in groups),
        groups=[
            (group, [_card(ranked[place], place + 1, images, levels) for place in group.places])
            for group in groups
        ],
        bars=bars.tolist(),
    )


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


def _card(row: Mapping[str, Any], rank: int, images: Path, levels: Levels | None) -> dict[str, Any]:
    picture = read_image(row.get("file", images / row["path"]), levels=levels)
    texts = {key: shown(row[key]) for key in ("path", "predicted_class")}
    return {**row, **texts, "rank": rank, "thumbnail": thumbnail(picture, SIDE)}
