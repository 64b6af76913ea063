"""Say whether new pictures are still like those that a detector was calibrated on: of a batch, and a stream.

    python -m sslood.commands.drift --detector FILE.safetensors --scores monday.csv --state stream.json
    python -m sslood.commands.drift --detector FILE.safetensors --images FOLDER --state stream.json

A batch is a table of `score`, CSV or parquet, or pictures, which are scored first. Each is tested alone: are
more called OOD than calibration images explain, are its scores distributed as theirs, and, with --reference,
are its vectors like those of other ID pictures? One batch in a hundred has p = 0.01 though nothing changed.
So --state keeps the evidence of all batches, and raises an alarm that is false with a probability of at most
--delta, ever, however long the stream is watched. Every picture counts once; the file is bound to the
detector. Without a batch it says how the stream stands. --fail ends with exit status 3 after an alarm. See
docs/drift.md.
"""

from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.errors import InputError
from sslood.core.machine import machine
from sslood.core.names import shown
from sslood.deploy.drift import words
from sslood.deploy.drift.features import features_of_pictures, features_of_table
from sslood.deploy.drift.scored import Scored, of_decisions, read_scores
from sslood.deploy.drift.vectors import Comparison, compare_vectors
from sslood.deploy.drift.watch import DELTA, Watch, judge_batch
from sslood.deploy.pictures import decide_pictures, find_pictures
from sslood.deploy.scorer import BATCH, Deployed, load_deployed

PLACE = click.Path(path_type=Path)
ALARM = 3  # exit status


@click.command(cls=Command, again=ANEW)
@click.option("--detector", required=True, help="Detector file.")
@click.option("--scores", type=PLACE, help="Scores of the batch: CSV, parquet, or a folder of parquet.")
@click.option("--images", type=PLACE, help="Pictures of the batch, to be scored: a folder, list or picture.")
@click.option("--state", type=OutputFile(), help="File of the stream, begun if it is not there.")
@click.option("--name", help="What the batch is called (default: the file or folder).")
@click.option("--ordered", is_flag=True, help="Rows are in the order of time; otherwise they are shuffled.")
@click.option(
    "--delta", type=float, help=f"Probability of a false alarm, ever (default, at the start: {DELTA})."
)
@click.option("--seed", type=int, help="Seed of what is drawn (default, at the start: 0).")
@click.option(
    "--reference", help="Other held-out ID pictures to compare vectors with; with --vectors, their vectors."
)
@click.option("--vectors", help="Vectors of the batch, in place of those of --images.")
@click.option(
    "--batch_size",
    default=BATCH,
    show_default=True,
    type=click.IntRange(min=1),
    help="Pictures per batch of the network.",
)
@click.option("--skip_unreadable", is_flag=True, help="Leave out pictures that cannot be read.")
@click.option("--fail", is_flag=True, help=f"End with exit status {ALARM} if the stream has an alarm.")
def main(
    detector, scores, images, state, name, ordered, delta, seed, reference, vectors, batch_size,
    skip_unreadable, fail,
) -> int:  # fmt: skip
    read_from = {"scores": scores, "images": images, "vectors": vectors, "reference": reference}
    for option, given in read_from.items():
        check_apart(**{option: given}, detector=detector, state=state)
    _check_options(scores, images, state, reference, vectors)
    _check_stream(state, fail=fail, ordered=ordered, delta=delta is not None)
    scorer = load_deployed(detector, machine().device)
    watch = None if state is None else Watch.open(
        detector, state, delta=delta, seed=seed, calibrated=scorer.calibrated
    )  # fmt: skip
    batch = None
    if scores is not None:
        batch = read_scores(scores, scorer.calibrated)
        if count := batch.unread:
            one = count == 1
            text = (
                f"{count} picture{'s' * (not one)} that could not be read {'is' if one else 'are'} left out"
            )
            click.echo(shown(f"{scores}: {text}"), err=True)
    elif images is not None:
        batch = _score(scorer, images, batch_size, skip_unreadable)
    if batch is not None:
        drawn = (seed or 0) if watch is None else watch.state.seed
        compared = _compare(scorer, images, vectors, reference, drawn, skip_unreadable)
        name = name or (scores or images).absolute().name
        if watch is None:
            record = judge_batch(batch, scorer.calibrated, name, compared)
        else:
            record = watch.add(batch, name, ordered=ordered, vectors=compared)
        for line in words.of_batch(record, scorer.calibrated, compared):
            click.echo(f"{line}.")
    if watch is None:
        return 0
    if batch is None:
        click.echo(f"{state}: {words.of_size(watch.state)}; {words.of_stream(watch)}.")
    else:
        done(state, f"{words.of_size(watch.state)}; {words.of_stream(watch)}")
    return ALARM if fail and watch.state.raised else 0


def _check_options(
    scores: Path | None, images: Path | None, state: str | None, reference: str | None, vectors: str | None
) -> None:
    """Raise InputError for options that do not go together."""
    if scores is not None and images is not None:
        raise InputError("--scores and --images are two ways to give a batch; give one of them")
    asked = vectors is None and reference is None and state is not None and Path(state).exists()
    if scores is None and images is None and not asked:
        if vectors is not None:
            raise InputError("--vectors needs --scores or --images as well")
        raise InputError("there is no batch: give --scores or --images")
    if vectors is not None and reference is None:
        raise InputError("--vectors are compared with those of other ID pictures; give --reference too")
    if reference is not None and images is None and vectors is None:
        raise InputError("--reference is compared with the vectors of the batch; give --images or --vectors")


def _check_stream(state: str | None, **given: bool) -> None:
    """Raise InputError for what is asked of a stream where there is none."""
    for option, is_given in given.items():
        if is_given and state is None:
            raise InputError(f"--{option} is of a stream; give its --state, or omit it")


def _score(scorer: Deployed, images: Path, batch_size: int, skip_unreadable: bool) -> Scored:
    """Return the pictures of a folder or list, scored."""
    scorer.network  # noqa: B018 - refuses pictures for a detector of vectors, before any is read
    found = find_pictures(images)
    unreadable: list[Path] | None = [] if skip_unreadable else None
    reading: dict[str, Any] = {"batch_size": batch_size, "unreadable": unreadable}
    with tqdm(total=len(found.paths), desc="score", unit="image", disable=None) as bar:
        read, decisions = decide_pictures(scorer, found.paths, **reading, progress=bar.update)
    for path in unreadable or ():
        click.echo(shown(f"{path}: left out, it cannot be read"), err=True)
    return of_decisions(read, found, decisions, scorer.calibrated)


def _compare(
    scorer: Deployed,
    images: Path | None,
    vectors: str | None,
    reference: str | None,
    seed: int,
    skip_unreadable: bool,
) -> Comparison | None:
    """Return how the vectors of the batch compare with those of the reference; None without one."""
    if reference is None:
        return None
    if vectors is not None:
        of_table = [features_of_table(scorer, path, seed=seed) for path in (reference, vectors)]
        return compare_vectors(*of_table, seed=seed)
    places = [Path(reference), *([] if images is None else [images])]
    with tqdm(desc="embed", unit="image", disable=None) as bar:
        reading: dict[str, Any] = {"seed": seed, "skip_unreadable": skip_unreadable, "progress": bar.update}
        of_pictures = [features_of_pictures(scorer, place, **reading) for place in places]
    return compare_vectors(*of_pictures, seed=seed)


if __name__ == "__main__":
    main()
