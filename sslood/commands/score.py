"""Decide for one picture, or every one in a folder, whether it is OOD, with a file that `deploy` wrote.

    python -m sslood.commands.score --detector data/detectors/NAME.safetensors --images FOLDER --out FILE.csv

Columns: path, score (larger = more OOD), p_value (small = OOD), is_ood, predicted_class. --html PAGE.html
also shows the pictures from most to least OOD. --fdr 0.1 judges all pictures together instead, so that at
most a tenth of those called OOD are expected to be ID. A picture that cannot be read stops with its name;
with --skip_unreadable it is left out and named at the end. Streams: no picture but the current batch
is in memory. Not a stage.
"""

import csv
from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import StageCommand
from sslood.core.errors import InputError
from sslood.core.files import atomic, save_text
from sslood.core.machine import machine
from sslood.deploy.scorer import BATCH, facts, find_pictures, judge_together, load_deployed, read_folder
from sslood.deploy.thresholds import check_rate
from sslood.report.gallery import gallery

COLUMNS = ("path", "score", "p_value", "is_ood", "predicted_class")


@click.command(cls=StageCommand)
@click.option("--detector", required=True, help="Detector file.")
@click.option(
    "--images", required=True, type=click.Path(path_type=Path), help="Folder with its folders, or a picture."
)
@click.option("--batch_size", default=BATCH, show_default=True, type=click.IntRange(min=1))
@click.option("--skip_unreadable", is_flag=True, help="Leave pictures out that cannot be read.")
@click.option("--fdr", type=float, help="Highest expected share of ID among the pictures called OOD.")
@click.option("--out", required=True, help="CSV to write.")
@click.option("--html", help="Page to write, with the pictures from most to least OOD.")
@click.option("--html_count", default=500, show_default=True, type=click.IntRange(min=1))
def main(detector, images, batch_size, skip_unreadable, fdr, out, html, html_count):
    scorer = load_deployed(detector, machine().device)
    folder, paths = find_pictures(images)
    size, channels = scorer.metadata["size"], scorer.metadata["channels"]
    threshold, called, bad = scorer.calibrated.threshold, 0, []
    reading = {"batch_size": batch_size, "unreadable": bad if skip_unreadable else None}
    if fdr is not None:
        if not 0 < fdr < 1:
            raise InputError(f"--fdr is {fdr}; a share lies between 0 and 1")
        check_rate(fdr, threshold.images)
    with (
        atomic(out) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
        tqdm(total=len(paths), desc="score", unit="image", disable=None) as bar,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for piece, pictures in read_folder(paths, size, channels, **reading):
            found = scorer.decide(pictures)
            names = [path.relative_to(folder).as_posix() for path in piece]
            flags = ["true" if flag else "false" for flag in found.is_ood]
            numbers = (found.scores.tolist(), found.p_values.tolist())
            table.writerows(zip(names, *numbers, flags, found.predicted, strict=True))
            called += int(found.is_ood.sum())
            bar.update(len(piece))
        if len(bad) == len(paths):
            raise InputError(f"{images}: none of the {len(bad)} pictures can be read; look at {bad[0]}")
    rate = f"a false-alarm rate of {threshold.alpha:.3g}"
    if fdr is not None:
        called, rate = judge_together(out, fdr, threshold.images), f"a false-discovery rate of {fdr:.3g}"
    if html:
        title = f"{images.resolve().name} by {Path(detector).stem}"
        save_text(html, gallery(_rows(out), folder, title, facts(scorer, fdr), count=html_count))
    for path in bad:
        click.echo(f"{path}: cannot be read, left out", err=True)
    click.echo(f"Wrote {out}: {called} of {len(paths) - len(bad)} images are OOD at {rate}.")


def _rows(table: str) -> list[dict]:
    """Return the rows of a CSV that this command wrote, numbers as numbers."""
    with open(table, newline="", encoding="utf-8") as file:
        return [
            {
                **row,
                "score": float(row["score"]),
                "p_value": float(row["p_value"]),
                "is_ood": row["is_ood"] == "true",
            }
            for row in csv.DictReader(file)
        ]


if __name__ == "__main__":
    main()
