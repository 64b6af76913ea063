"""From decisions about boxes to one about each picture."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

from sslood.core.files import atomic
from sslood.core.names import path_cell
from sslood.data.sets.crops import file_numbers, split_box
from sslood.deploy.thresholds import times

HEADER = ("path", "boxes", "ood_boxes", "score", "p_value", "is_ood", "worst")


def by_image(rows: Iterable[Mapping[str, Any]], alpha: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each picture, in the order of their first boxes.

    rows: of boxes, as `table_rows` makes them of a list. A picture is a file, by whatever paths its boxes
    name it, and is called as by the first of them. It has its boxes' largest score, and the
    p-value min(1, n p) of the smallest p of its n boxes (Bonferroni, since the boxes of one picture depend on
    each other). So is_ood, p_value <= alpha, is true of at most the share alpha of the pictures whose boxes
    are all ID, however many they have; ood_boxes counts those that are OOD one by one.
    """
    every = list(rows)
    pictures: dict[int, list[Mapping[str, Any]]] = {}
    for number, row in zip(file_numbers([row["file"] for row in every]), every, strict=True):
        pictures.setdefault(number, []).append(row)
    for boxes in pictures.values():
        worst = min(boxes, key=lambda row: (row["p_value"], -row["score"]))
        p_value = times(len(boxes), worst["p_value"])
        yield {
            "path": boxes[0]["path"],
            "boxes": len(boxes),
            "ood_boxes": sum(bool(row["is_ood"]) for row in boxes),
            "score": max(row["score"] for row in boxes),
            "p_value": p_value,
            "is_ood": p_value <= alpha,
            "worst": " ".join(map(str, split_box(worst["file"])[1] or ())),
        }


def most_boxes(alpha: float, images: int) -> int:
    """Return how many boxes a picture may have to be ever OOD: no p-value is below 1 / (images + 1)."""
    return floor(Fraction(repr(float(alpha))) * (images + 1))


def save_by_image(out: str | Path, rows: Iterable[Mapping[str, Any]], alpha: float, images: int) -> list[str]:
    """Write `by_image` as CSV and return in sentences how many pictures are OOD, and how many cannot be.

    alpha: of the detector; images: how many calibrate it. worst holds the box with the smallest p-value as
    `left top right bottom`.
    """
    total = count = beyond = 0
    with atomic(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        for row in by_image(rows, alpha):
            total, count = total + 1, count + row["is_ood"]
            beyond += row["boxes"] > most_boxes(alpha, images)
            decision = "true" if row["is_ood"] else "false"
            writer.writerow(row | {"path": path_cell(row["path"]), "is_ood": decision})
    rate = f"a false-alarm rate of {alpha:.3g} per picture"
    said = [f"{count} of {total} pictures are OOD at {rate}"]
    if beyond:
        pictures = "1 picture has" if beyond == 1 else f"{beyond} pictures have"
        most = most_boxes(alpha, images)
        said.append(
            f"{pictures} more than {most} box{'es' * (most != 1)} and so cannot be OOD with "
            f"{images} calibration images; look at their boxes, or calibrate on more"
        )
    return said
