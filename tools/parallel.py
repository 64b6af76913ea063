"""Run the stages that are not up to date, several at a time, and leave what one `dvc repro` would leave.

    make repro J=4                       every stage, four at a time
    make repro J=4 S="ssd posthoc"       these stages and what they need
    SSLOOD_LAUNCH="srun --gres=gpu:1" make repro J=8    the same, each stage on a node of a cluster

`dvc repro` runs one stage after another. Here each stage that is ready is a `dvc --wait-for-lock repro -s` of
its own, so DVC decides, caches and records as always: outputs and dvc.lock are those of one `dvc repro`. CPU
threads are divided, GPUs dealt out in turn, and a stage waits until the memory that it took when it last ran
is free. Each writes to `scratch/logs/`. If a stage fails, it is named with its last lines, what depends on it
is left out, and the others finish (exit status 1). Ctrl-C ends all; the same command goes on from the
checkpoints.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import click
import psutil
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.utils.serialize import dump_yaml
from ruamel.yaml import YAML

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.core.settings import load_params
from tools.accept import dvc_status
from tools.graph import Cell, cells, needed, order
from tools.jobs import LAUNCH, LOGS, Job, launches, log_of
from tools.memory import Needs, Room, free_memory
from tools.runner import Runner

DVC_BYTES = 0.2e9  # that the `dvc` around a stage takes beside it


class Parallel(Runner):
    """Runs cells by DVC."""

    stop_by = signal.SIGINT  # dvc waits while its stage saves the checkpoint; SIGTERM would end dvc alone

    def __init__(
        self,
        chosen: Sequence[Cell],
        jobs: int,
        stale: Iterable[str],
        needs: Needs,
        say: Callable[[str], object] = click.echo,
    ):
        """stale: names that `dvc status` lists. Raises InputError if `jobs` jobs have too little memory."""
        self.stale, self.needs, self.ran = set(stale), needs, set[str]()
        room = None if launches() else Room(free_memory(), needs)
        super().__init__(chosen, jobs, say, room, needs.seconds)
        doubtful = set(self.stale)
        for cell in self.chosen:  # what is needed comes earlier
            if self.makers[cell.name] & doubtful:
                doubtful.add(cell.name)
        self.doubtful = [cell for cell in self.chosen if cell.name in doubtful]
        if room is not None:
            room.check(jobs, self.doubtful)

    def current(self, cell: Cell) -> bool:
        """DVC's status was asked before the run: it holds as long as nothing that the cell needs ran."""
        return not {cell.name, *self.makers[cell.name]} & (self.stale | self.ran)

    def passed(self, cell: Cell) -> None:
        """Say nothing of what DVC would not run either."""

    def command(self, cell: Cell) -> list[str]:
        self.say(f"start {cell.name}")
        return [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", cell.name]

    def environment(self, cell: Cell) -> dict[str, str]:
        return {"SHELL": str(LAUNCH)} if launches() else {}  # dvc runs the command of a stage by $SHELL -c

    def finished(self, job: Job) -> str:
        text = log_of(job.cell).read_text(errors="replace")
        if f"Running stage '{job.cell.name}'" in text:
            self.ran.add(job.cell.name)
            self.needs.note(job.cell.name, time.monotonic() - job.start, job.peak + DVC_BYTES)
            return "done"
        if "didn't change, skipping" in text:
            return "same"
        self.ran.add(job.cell.name)
        return "cached"


def free_of_others(root: Path) -> None:
    """Raise InputError if another `dvc` is at work in this folder."""
    held: dict = {}
    with suppress(OSError, ValueError):
        held = json.loads((root / ".dvc/tmp/rwlock").read_bytes())
    readers = [reader for readers in held.get("read", {}).values() for reader in readers]
    for one in [*held.get("write", {}).values(), *readers]:
        if psutil.pid_exists(int(one["pid"])):
            raise InputError(
                f"another DVC is at work here (process {one['pid']}: {one['cmd']}); wait until it ends, or "
                "end it"
            )


def locked(root: Path) -> list[str]:
    """Return the stages of dvc.lock in its order."""
    path = root / "dvc.lock"
    return list((YAML(typ="safe").load(path) or {}).get("stages", {})) if path.is_file() else []


def settle(root: Path, before: Sequence[str]) -> None:
    """Order dvc.lock as one `dvc repro` does: what was there keeps its place, the rest follows DVC's plan."""
    now = locked(root)
    if now == list(before):
        return
    with Repo(str(root)) as repo:
        plan = plan_repro(get_active_graph(repo.index.graph), collect_stages(repo, ["dvc.yaml"]))
        ordered = list(dict.fromkeys([*before, *(stage.addressing for stage in plan)]))
    lock = YAML().load(root / "dvc.lock")
    for name in sorted(now, key=ordered.index):
        lock["stages"].move_to_end(name)
    with atomic(root / "dvc.lock") as temporary:
        dump_yaml(temporary, lock)


@click.command(cls=Command)
@click.argument("stages", nargs=-1)
@click.option("--jobs", "-j", default=2, type=click.IntRange(1), help="Stages that run at the same time.")
def main(stages: tuple[str, ...], jobs: int) -> None:
    root = Path.cwd()
    chosen = needed(order(cells(load_params(Path("dvc.yaml")), load_params(Path("params.yaml")))), stages)
    free_of_others(root)
    before = locked(root)
    stale = dvc_status(root, [cell.name for cell in chosen] if stages else ())
    runner = Parallel(chosen, jobs, stale, Needs())
    if not runner.doubtful:
        click.echo(f"{len(chosen)} stages are up to date.")
        return
    share = runner.threads.get("SSLOOD_THREADS")
    click.echo(
        f"{len(runner.doubtful)} of {len(chosen)} stages are not up to date, or may not be: {jobs} at a time"
        f"{f', {share} CPU thread(s) each' if share else ''}; their output is in {LOGS}"
    )
    try:
        failed, _ = runner.run()
    finally:
        settle(root, before)
    if failed:
        raise InputError(f"failed: {', '.join(failed)}; their output is in {LOGS}")
    click.echo(f"{len(chosen)} stages are up to date.")


if __name__ == "__main__":
    main()
