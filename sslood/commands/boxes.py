"""Write boxes of annotations or of a detector's results as a list, whose rows all commands take as pictures.

    python -m sslood.commands.boxes --annotations instances.json --images FOLDER --out boxes.csv
    python -m sslood.commands.score --detector DETECTOR --images boxes.csv --out scores.csv
        --by_image images.csv

--annotations is a COCO file (annotations, or a list of results), a folder of PASCAL VOC's XML files, or a
folder of YOLO's text files. Boxes whose shorter side is below --least pixels, in which there is nothing to
see, are left out and counted. Takes seconds.
"""

from pathlib import Path

import click

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.errors import InputError
from sslood.deploy.boxes.formats import read_boxes, save_boxes
from sslood.deploy.tables.writing import CSV, check_table

PLACE = click.Path(path_type=Path)


@click.command(cls=Command, again=ANEW)
@click.option(
    "--annotations", required=True, type=PLACE, help="COCO file, or folder of VOC's or YOLO's files."
)
@click.option("--images", required=True, type=PLACE, help="Folder of the pictures, searched recursively.")
@click.option(
    "--least", default=8, show_default=True, type=click.IntRange(min=1), help="Pixels of a box's side."
)
@click.option("--out", required=True, type=OutputFile(), help="List (CSV) to write.")
def main(annotations: Path, images: Path, least: int, out: str) -> None:
    check_apart(annotations=annotations, out=out)
    check_table(out, [CSV])
    found = read_boxes(annotations, images)
    boxes = [box for box in found if box.least >= least]
    if not boxes:
        raise InputError(
            f"{annotations}: none of the {len(found)} boxes has sides of {least} pixels; lower --least"
        )
    save_boxes(out, boxes)
    left, pictures = len(found) - len(boxes), len({box.picture for box in boxes})
    are = "is" if left == 1 else "are"
    small = f"; {left} with a side below {least} pixels {are} left out" if left else ""
    counts = f"{len(boxes)} box{'es' * (len(boxes) != 1)} of {pictures} picture{'s' * (pictures != 1)}"
    done(out, f"{counts}{small}")


if __name__ == "__main__":
    main()
