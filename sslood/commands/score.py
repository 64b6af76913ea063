"""Decide whether a picture, or each one of a folder or list, is OOD, with a file of `deploy` or `fit`.

    python -m sslood.commands.score --detector data/detectors/NAME.safetensors --images FOLDER --out FILE.csv
    python -m sslood.commands.score --detector FILE.safetensors --vectors FILE.parquet --out scores.parquet

Columns: path, score (larger = more OOD), p_value (small = OOD), is_ood, predicted_class, and those that a
list has beside `path`. Odd characters are written as %XX. --html PAGE.html also shows the pictures from most
to least OOD. --alpha 0.01 changes the share of ID pictures that may be called OOD. --fdr 0.1 judges all
pictures together instead, so that at most a tenth of those called OOD are expected to be ID. A picture that
cannot be read ends the run with its name; with --skip_unreadable it is left out and named at the end. The
rows that were scored before a run ended early are in OUT.partial, those of pictures as CSV whatever --out is;
the next run begins with the first picture, and keeps them in OUT.partial.1. Memory is bounded by one batch.
With --vectors it decides about vectors of the detector's model instead: .npy, .safetensors or parquet, a row
each (docs/vectors.md). --out FILE.parquet writes parquet. --maps FOLDER says where pictures are unlike ID,
with a detector that was written with --maps (docs/maps.md).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.errors import InputError
from sslood.core.machine import machine
from sslood.core.names import shown
from sslood.data.sets.convert import UNREADABLE, notes_of
from sslood.data.sets.images import Remark
from sslood.data.sets.tree import say_left
from sslood.deploy.boxes.by_image import save_by_image
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.maps.showing import Showing
from sslood.deploy.pictures import (
    decide_pictures,
    find_pictures,
    rows_so_far,
    save_table,
    table_rows,
)
from sslood.deploy.scorer import BATCH, Deployed, load_deployed
from sslood.deploy.tables.reading import open_vectors
from sslood.deploy.tables.scored import known_columns, score_table
from sslood.deploy.tables.writing import CSV, check_table
from sslood.deploy.thresholds import check_rate

COUNT, PLACE = click.IntRange(min=1), click.Path(path_type=Path)


@click.command(cls=Command, again=ANEW)
@click.option("--detector", required=True, help="Detector file.")
@click.option(
    "--images",
    type=PLACE,
    help="A picture, a folder searched recursively, or a list of paths (CSV, or lines of text).",
)
@click.option(
    "--vectors", help="Vectors in place of pictures: .npy, .safetensors, .parquet, or a folder of it."
)
@click.option(
    "--column", help="Column or tensor that holds the vectors, or a pattern of several, e.g. emb_*."
)
@click.option("--ids", help="Column of the vectors' IDs, or a file of them, one per line.")
@click.option("--logits", help="Column or tensor of the classifier's outputs, or a .npy file.")
@click.option("--batch_size", default=BATCH, show_default=True, type=COUNT, help="Pictures per batch.")
@click.option("--skip_unreadable", is_flag=True, help="Leave out what cannot be read, or is NaN.")
@click.option("--alpha", type=float, help="Share of ID pictures that may be called OOD, if not the file's.")
@click.option("--fdr", type=float, help="Highest expected share of ID among the pictures called OOD.")
@click.option(
    "--out", required=True, type=OutputFile(), help="Table to write: CSV, or parquet by its ending."
)
@click.option("--html", type=OutputFile(), help="Page to write, with the pictures from most to least OOD.")
@click.option("--maps", type=PLACE, help="Folder to write: heat maps of the pictures that the page shows.")
@click.option("--id_images", type=PLACE, help="ID pictures, a folder or a set file, for the page to show.")
@click.option(
    "--html_count",
    default=500,
    show_default=True,
    type=COUNT,
    help="Pictures on the page, and maps, at most.",
)
@click.option(
    "--by_image", type=OutputFile(), help="CSV to write, with a row per picture whose boxes a list has."
)
def main(
    detector, images, vectors, column, ids, logits, batch_size, skip_unreadable, alpha, fdr, out, html,
    maps, id_images, html_count, by_image,
) -> None:  # fmt: skip
    read_from = {"images": images, "vectors": vectors, "ids": ids, "logits": logits}
    for option, given in read_from.items():  # two of them may name one column
        check_apart(**{option: given}, detector=detector, out=out, html=html, by_image=by_image)
    check_table(out)
    if by_image is not None:
        check_table(by_image, [CSV])
    if (images is None) == (vectors is None):
        raise InputError("give --images or --vectors, what is to be scored, and not both")
    of_vectors = {"column": column, "ids": ids, "logits": logits}
    if alpha is not None and fdr is not None:
        raise InputError("--alpha and --fdr are two rules for what is OOD; give one of them")
    scorer = load_deployed(detector, machine().device)
    if alpha is not None:
        scorer = replace(scorer, calibrated=scorer.calibrated.at(alpha))
    calibrated, threshold = scorer.calibrated, scorer.calibrated.threshold
    if fdr is not None:
        check_rate(fdr, calibrated.fewest)
    if vectors is not None:
        of_pictures = {"html": html, "maps": maps, "id_images": id_images, "by_image": by_image}
        for option, given in of_pictures.items():
            if given:
                raise InputError(f"--{option} is of pictures, and --vectors has none; omit it")
        return score_vectors(scorer, vectors, of_vectors, skip_unreadable, fdr, out)
    if given := [name for name, value in of_vectors.items() if value is not None]:
        raise InputError(f"--{given[0]} is of --vectors; omit it with --images")
    scorer.network  # noqa: B018 - refuses pictures for a detector of vectors, before any is read
    showing = Showing(html, maps, id_images, html_count)
    showing.check(scorer)
    found = find_pictures(images)
    if found.left:
        click.echo(shown(f"{images}: {say_left(found.left)}; not taken"), err=True)
    unreadable: list[Path] | None = [] if skip_unreadable else None
    remarks: list[tuple[Path, Remark]] = []
    reading: dict[str, Any] = {"batch_size": batch_size, "unreadable": unreadable, "remarks": remarks}
    with rows_so_far(out, found) as keep:  # until the table is written
        with tqdm(total=len(found.paths), desc="score", unit="image", disable=None) as bar:
            read, decisions = decide_pictures(scorer, found.paths, **reading, progress=bar.update, keep=keep)
        if fdr is not None:
            decisions = decisions.judge_together(fdr, calibrated.fewest)
        save_table(out, table_rows(read, decisions, found), found)
    if by_image:
        rows = table_rows(read, decisions, found)
        for line in save_by_image(by_image, rows, threshold.alpha, calibrated.fewest):
            click.echo(f"{line}.")
    caught, doubts = in_a_phrase(calibrated.catches), calibrated.warnings()
    if html or maps:
        title = shown(f"{images.resolve().name} by {Path(detector).stem}")
        for line in showing.write(scorer, list(table_rows(read, decisions, found)), title, fdr):
            click.echo(f"{line}.")
    for path, (kind, detail) in remarks:
        if kind == UNREADABLE:
            click.echo(shown(f"{path}: left out, {detail}"), err=True)
    others = [(str(path), remark) for path, remark in remarks if remark[0] != UNREADABLE]
    for note in notes_of(others, len(read)):
        click.echo(shown(note), err=True)
    for line in doubts:
        click.echo(f"Warning: {line}.", err=True)
    done(
        out,
        f"{int(decisions.is_ood.sum())} of {len(read)} images are OOD at {rate_of(scorer, fdr)}; {caught}",
    )


def score_vectors(
    scorer: Deployed, path: str, columns: dict[str, Any], skip: bool, fdr: float | None, out: str
) -> None:
    """Write the scores of a table of vectors, and say what is in them."""
    skipped: list[str] | None = [] if skip else None
    table = open_vectors(path, **columns, known=known_columns(scorer.metadata), skipped=skipped)
    with tqdm(total=len(table), desc="score", unit="vector", disable=None) as bar:
        counts = score_table(scorer, table, out, fdr=fdr, progress=bar.update)
    for line in skipped or ():
        click.echo(shown(f"{line}; left out"), err=True)
    calibrated = scorer.calibrated
    for line in calibrated.warnings():
        click.echo(f"Warning: {line}.", err=True)
    caught = in_a_phrase(calibrated.catches)
    done(out, f"{counts.ood} of {counts.total} vectors are OOD at {rate_of(scorer, fdr)}; {caught}")


def rate_of(scorer: Deployed, fdr: float | None) -> str:
    """Return in words what the decisions promise."""
    if fdr is not None:
        return f"a false-discovery rate of {fdr:.3g}"
    return f"a false-alarm rate of {scorer.calibrated.threshold.alpha:.3g}"


if __name__ == "__main__":
    main()
