"""Decide whether a picture, or each one of a folder or list, is OOD, with a file that `deploy` wrote.

    python -m sslood.commands.score --detector data/detectors/NAME.safetensors --images FOLDER --out FILE.csv

Columns: path, score (larger = more OOD), p_value (small = OOD), is_ood, predicted_class, and those that a
list has beside `path`. Odd characters are written as %XX. --html PAGE.html also shows the pictures from most
to least OOD. --alpha 0.01 changes the share of ID pictures that may be called OOD. --fdr 0.1 judges all
pictures together instead, so that at most a tenth of those called OOD are expected to be ID. A picture that
cannot be read ends the run with its name; with --skip_unreadable it is left out and named at the end. The
rows that were scored before a run ended early are in FILE.csv.partial. Memory use is bounded by one batch.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from sslood.cli.command import Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.errors import InputError
from sslood.core.files import save_text
from sslood.core.machine import machine
from sslood.core.names import shown
from sslood.data.sets.convert import UNREADABLE, notes_of
from sslood.data.sets.images import Remark
from sslood.data.sets.tree import say_left
from sslood.deploy.boxes.by_image import save_by_image
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.pictures import (
    chain_of,
    decide_pictures,
    find_pictures,
    rows_so_far,
    save_table,
    table_rows,
)
from sslood.deploy.scorer import BATCH, describe_rule, load_deployed
from sslood.deploy.thresholds import check_rate
from sslood.report.gallery import gallery

COUNT = click.IntRange(min=1)


@click.command(cls=Command)
@click.option("--detector", required=True, help="Detector file.")
@click.option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    help="A picture, a folder searched recursively, or a list of paths (CSV, or lines of text).",
)
@click.option("--batch_size", default=BATCH, show_default=True, type=COUNT, help="Pictures per batch.")
@click.option("--skip_unreadable", is_flag=True, help="Leave out pictures that cannot be read.")
@click.option("--alpha", type=float, help="Share of ID pictures that may be called OOD, if not the file's.")
@click.option("--fdr", type=float, help="Highest expected share of ID among the pictures called OOD.")
@click.option("--out", required=True, type=OutputFile(), help="CSV to write.")
@click.option("--html", type=OutputFile(), help="Page to write, with the pictures from most to least OOD.")
@click.option(
    "--html_count", default=500, show_default=True, type=COUNT, help="Pictures on the page, at most."
)
@click.option(
    "--by_image", type=OutputFile(), help="CSV to write, with a row per picture whose boxes a list has."
)
def main(detector, images, batch_size, skip_unreadable, alpha, fdr, out, html, html_count, by_image) -> None:
    check_apart(detector=detector, out=out, html=html, by_image=by_image)
    if alpha is not None and fdr is not None:
        raise InputError("--alpha and --fdr are two rules for what is OOD; give one of them")
    scorer = load_deployed(detector, machine().device)
    if alpha is not None:
        scorer = replace(scorer, calibrated=scorer.calibrated.at(alpha))
    calibrated, threshold = scorer.calibrated, scorer.calibrated.threshold
    if fdr is not None:
        if not 0 < fdr < 1:
            raise InputError(f"--fdr must be above 0 and below 1, found {fdr}")
        check_rate(fdr, threshold.images)
    found = find_pictures(images)
    if found.left:
        click.echo(shown(f"{images}: {say_left(found.left)}; not taken"), err=True)
    unreadable: list[Path] | None = [] if skip_unreadable else None
    remarks: list[tuple[Path, Remark]] = []
    reading: dict[str, Any] = {"batch_size": batch_size, "unreadable": unreadable, "remarks": remarks}
    with tqdm(total=len(found.paths), desc="score", unit="image", disable=None) as bar:
        with rows_so_far(out, found) as keep:
            read, decisions = decide_pictures(scorer, found.paths, **reading, progress=bar.update, keep=keep)
    rate = f"a false-alarm rate of {threshold.alpha:.3g}"
    if fdr is not None:
        decisions = decisions.judge_together(fdr, threshold.images)
        rate = f"a false-discovery rate of {fdr:.3g}"
    save_table(out, table_rows(read, decisions, found), found)
    for line in save_by_image(by_image, table_rows(read, decisions, found), threshold) if by_image else ():
        click.echo(f"{line}.")
    caught, doubts = in_a_phrase(calibrated.catches), calibrated.warnings()
    if html:
        title = shown(f"{images.resolve().name} by {Path(detector).stem}")
        said: dict[str, Any] = {"headline": caught, "warnings": doubts, "count": html_count}
        rows, levels = list(table_rows(read, decisions, found)), chain_of(scorer.metadata).levels
        save_text(html, gallery(rows, Path(), title, describe_rule(scorer, fdr), **said, levels=levels))
    for path, (kind, detail) in remarks:
        if kind == UNREADABLE:
            click.echo(shown(f"{path}: left out, {detail}"), err=True)
    others = [(str(path), remark) for path, remark in remarks if remark[0] != UNREADABLE]
    for note in notes_of(others, len(read)):
        click.echo(shown(note), err=True)
    for line in doubts:
        click.echo(f"Warning: {line}.", err=True)
    done(out, f"{int(decisions.is_ood.sum())} of {len(read)} images are OOD at {rate}; {caught}")


if __name__ == "__main__":
    main()
