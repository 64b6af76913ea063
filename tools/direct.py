"""Run the stages of dvc.yaml without DVC, several at once: on a machine that has no DVC, a lent GPU say.

    python -m tools.direct                    # every stage that is not up to date
    python -m tools.direct methods posthoc    # these stages and what they need
    python -m tools.direct -j 4 --budget 540  # four at a time, for nine minutes; go on in the next call

A stage runs again if its command, the params that it declares, or the bytes of a dep changed since it last
began, as `scratch/direct.json` records. Each writes its output to `scratch/logs/`. The CPU threads are
divided among the jobs; GPUs are dealt out in turn. A stage that fails is named with its last lines, what
depends on it is left out, and the others finish (exit status 1). What is cut off goes on from its checkpoint
(exit status 75). dvc.lock is not written, so `dvc repro` runs all of it again: `make repro J=4` is for that.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import save_json
from sslood.core.settings import load_params
from tools.graph import Cell, cells, digest, needed, order
from tools.jobs import LAUNCH, LOGS, Job, launches
from tools.runner import Runner, budget_option

RECORD = Path("scratch/direct.json")
CUT_OFF = 75  # exit status: try again


class Direct(Runner):
    """Runs the commands of cells, and keeps a record of its own of what is up to date."""

    def __init__(self, chosen: Sequence[Cell], jobs: int, say: Callable[[str], object] = click.echo):
        super().__init__(chosen, jobs, say)
        self.done = read_record()
        self.begun = dict[str, str]()  # name -> digest of what it read

    def current(self, cell: Cell) -> bool:
        return self.done.get(cell.name) == digest(cell) and all(Path(out).exists() for out in cell.outs)

    def command(self, cell: Cell) -> list[str]:
        return [str(LAUNCH) if launches() else "/bin/sh", "-c", cell.cmd]

    def environment(self, cell: Cell) -> dict[str, str]:
        return {"DVC_STAGE": cell.name}

    def starting(self, cell: Cell) -> None:
        """Forget what a cell made before, as DVC does.

        Its digest is taken now: an edit while it runs changes files that it has read. A file is replaced as a
        whole, but a folder would keep what is no longer written into it.
        """
        self.begun[cell.name] = digest(cell)
        if self.done.pop(cell.name, None):
            save_json(RECORD, self.done)
        for out in filter(Path.is_dir, map(Path, cell.outs)):
            shutil.rmtree(out)

    def finished(self, job: Job) -> str:
        self.remember(job.cell, self.begun[job.cell.name])
        return "done"

    def remember(self, cell: Cell, key: str) -> None:
        """Record that a cell's outputs are those of this digest."""
        self.done[cell.name] = key
        save_json(RECORD, self.done)


def read_record() -> dict[str, str]:
    """Return the digest of each cell as it last ran; nothing if there is no such record, or a damaged one."""
    with suppress(OSError, ValueError, RecursionError):
        if isinstance(record := json.loads(RECORD.read_text(encoding="utf-8")), dict):
            return record
    return {}


@click.command(cls=Command)
@click.argument("stages", nargs=-1)
@click.option("--jobs", "-j", default=1, type=click.IntRange(1), help="Stages that run at the same time.")
@budget_option
def main(stages: tuple[str, ...], jobs: int, budget: float) -> None:
    graph = order(cells(load_params(Path("dvc.yaml")), load_params(Path("params.yaml"))))
    chosen = needed(graph, stages)
    failed, cut = Direct(chosen, jobs).run(budget)
    if cut:
        text = f"{len(cut)} of {len(chosen)} stages are left, from {cut[0]} on; run the same command again"
        click.echo(text, err=True)
        sys.exit(CUT_OFF)
    if failed:
        raise InputError(f"failed: {', '.join(failed)}; their output is in {LOGS}")
    click.echo(f"{len(chosen)} stages are up to date.")


if __name__ == "__main__":
    main()
