"""Run a study: its parts, most useful first, each under settings of its own, as far as time allows.

    python -m studies.run                                # the studies that there are
    python -m studies.run cifar10-cpu -j 2               # all of it, two stages at a time
    python -m studies.run cifar10-cpu -j 2 --budget 3600 # an hour of it; the same command goes on
    python -m studies.run cifar10-cpu classifier         # one part
    python -m studies.run cifar10 --tiny                 # does every part run? few images, any device

studies/NAME.yaml says what a study consists of (docs/studies.md); NAME may also be the path of such a file.
It runs without DVC. What is cut off goes on from its checkpoint (exit status 75). A stage that fails is
named, and the others finish (exit status 1). Parts that are done are gathered in results/NAME/.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from filelock import FileLock, Timeout

from sslood.cli.command import Command
from sslood.core.errors import InputError
from studies.accept import accept_made, check_stages, made_before
from studies.origin import hardware, revision
from studies.pack import pack, unpack
from studies.parts import Call, Outcome
from studies.plan import Study, chosen, read_study, study_names, tiny
from studies.results import gather
from studies.runner import Store, check_budget
from studies.workspace import COMMANDS, check_parts, copy_code
from tools.closure import ROOT
from tools.direct import CUT_OFF
from tools.runner import budget_option

FOLDER = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("name", required=False)
@click.argument("parts", nargs=-1)
@budget_option
@click.option("--jobs", "-j", default=1, type=click.IntRange(1), help="Stages that run at the same time.")
@click.option("--folder", type=FOLDER, help="Work folder; scratch/studies/NAME if not given.")
@click.option("--results", type=FOLDER, help="Folder of results; results/NAME if not given.")
@click.option(
    "--accept", multiple=True, metavar="STAGE", help="Keep what older code made, if code is all that changed."
)
@click.option("--tiny", "small", is_flag=True, help="Few images and epochs: does every part run?")
@click.option("--pack", "out", type=FOLDER, help="Put results, checkpoints and models here: at most 64 MiB.")
@click.option("--unpack", "back", type=FOLDER, help="Begin with what --pack put here.")
def main(
    name: str | None,
    parts: tuple[str, ...],
    budget: float,
    jobs: int,
    folder: Path | None,
    results: Path | None,
    accept: tuple[str, ...],
    small: bool,
    out: Path | None,
    back: Path | None,
) -> None:
    """Run the parts of the study NAME, or PARTS alone, and gather what is done."""
    if name is None:
        for one in study_names():
            click.echo(f"{one}: {read_study(one).title}")
        return
    began = time.monotonic()
    study = read_study(name)
    study = tiny(study) if small else study
    picked = chosen(study, parts)
    place = ROOT / "scratch/studies" / (f"{study.name}-tiny" if small else study.name)
    folder = (folder or place).absolute()
    results = (results or (folder if small else ROOT) / "results" / study.name).absolute()
    with alone(folder):
        if back is not None:
            unpack(back, folder, results)
        store = Store(folder, {"revision": revision(), "hardware": hardware()}, revision(tracked=COMMANDS))
        check_budget(budget, max(part.least for part in picked.parts), (), store)
        check_parts(picked, folder)
        check_stages(accept)
        made = made_before(folder, [part.name for part in study.parts], accept)
        copy_code(folder)
        call = Call(study, folder, jobs, store, budget, click.echo, began)
        if accept:
            accept_made(call, accept, made)
        outcomes = _run(call, picked, results)
        if out is not None:
            click.echo(f"{pack(folder, results, out)} files are packed in {out}")
    _end(outcomes, results)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a study's folder; InputError if another call is at work there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"another call runs this study in {folder}; wait, or give a --folder") from None
    try:
        yield
    finally:
        lock.release()


def _run(call: Call, picked: Study, results: Path) -> list[Outcome]:
    """Run the parts, and gather what is done after each."""
    if picked.minutes:
        on = f" on {picked.hardware}" if picked.hardware else ""
        click.echo(f"{len(picked.parts)} parts, about {picked.minutes:.0f} minutes{on} from the start.")
    outcomes = []
    for place, part in enumerate(picked.parts, 1):
        if call.left <= 0:
            outcomes.append(Outcome(part.name))
            continue
        click.echo(f"--- {part.name} ({place} of {len(picked.parts)}) {part.title}".rstrip())
        outcomes.append(call.run(part))
        gather(call.study, call.folder, results, call.store)
    return outcomes


def _end(outcomes: list[Outcome], results: Path) -> None:
    """Say what became of the parts, and end with the exit status that tells it."""
    for outcome in outcomes:
        stages = f", {outcome.made} of {outcome.total} stages" if outcome.total else ""
        why = f": {outcome.reason}" if outcome.reason else ""
        click.echo(f"{outcome.name}: {outcome.state}{stages}{why}")
    if any(outcome.state == "done" for outcome in outcomes):
        click.echo(f"What is done: {results / 'README.md'}, {results / 'index.html'}")
    if failed := [f"{outcome.name}: {stage}" for outcome in outcomes for stage in outcome.failed]:
        raise InputError(f"failed: {', '.join(failed)}; the reasons are above and in the results")
    if any(outcome.state == "unfinished" for outcome in outcomes):
        click.echo("Time ran out; run the same command again.", err=True)
        sys.exit(CUT_OFF)


if __name__ == "__main__":
    main()
