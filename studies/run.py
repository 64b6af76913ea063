"""Run a study: its parts in order of worth, each under settings of its own, as far as time allows.

    python -m studies.run                                # the studies that there are
    python -m studies.run cifar10-cpu -j 2               # all of it, two stages at a time
    python -m studies.run cifar10-cpu -j 2 --budget 3600 # an hour of it; the same command goes on
    python -m studies.run cifar10-cpu simclr             # one part

studies/NAME.yaml says what a study consists of (docs/studies.md); NAME may also be the path of such a file.
It runs without DVC. What is cut off goes on from its checkpoint (exit status 75). A stage that fails is
named, and the others finish (exit status 1). Parts that are done are gathered in results/NAME/.
"""

import sys
from pathlib import Path

import click

from sslood.cli.command import Command
from sslood.core.errors import InputError
from studies.origin import hardware, revision
from studies.parts import Call, Outcome
from studies.plan import chosen, read_study, study_names
from studies.results import gather
from studies.runner import Store, check_budget
from studies.workspace import check_parts, copy_code
from tools.closure import ROOT
from tools.direct import CUT_OFF


@click.command(cls=Command)
@click.argument("name", required=False)
@click.argument("parts", nargs=-1)
@click.option("--budget", default=float("inf"), help="Seconds after which what runs is cut off.")
@click.option("--jobs", "-j", default=1, type=click.IntRange(1), help="Stages that run at the same time.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Work folder; scratch/studies/NAME if not given."
)
@click.option("--results", type=click.Path(path_type=Path), help="Results; results/NAME if not given.")
def main(
    name: str | None,
    parts: tuple[str, ...],
    budget: float,
    jobs: int,
    folder: Path | None,
    results: Path | None,
) -> None:
    """Run the parts of the study NAME, or PARTS alone, and gather what is done."""
    if name is None:
        click.echo(
            "\n".join(f"{one}: {read_study(one).title}" for one in study_names()) or "There are no studies."
        )
        return
    study = read_study(name)
    name = study.name
    picked = chosen(study, parts)
    folder = (folder or ROOT / "scratch/studies" / name).absolute()
    store = Store(folder, {"revision": revision(), "hardware": hardware()})
    check_budget(budget, study.least, (), store)
    check_parts(picked, folder)
    copy_code(folder)
    call = Call(study, folder, jobs, store, budget, click.echo)
    if picked.minutes:
        on = f" on {study.hardware}" if study.hardware else ""
        click.echo(f"{len(picked.parts)} parts, about {picked.minutes:.0f} minutes{on} from the start.")
    outcomes = []
    for place, part in enumerate(picked.parts, 1):
        if call.left <= 0:
            outcomes.append(Outcome(part.name))
            continue
        click.echo(f"--- {part.name} ({place} of {len(picked.parts)}) {part.title}".rstrip())
        outcomes.append(call.run(part))
        gather(study, folder, results or ROOT / "results" / name, store)
    _end(outcomes, results or ROOT / "results" / name)


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
