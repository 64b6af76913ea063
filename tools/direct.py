"""Run the stages of dvc.yaml without DVC, several at once: on a machine that has no DVC, a lent GPU say.

    python -m tools.direct                    # every stage that is not up to date
    python -m tools.direct methods posthoc    # these stages and what they need
    python -m tools.direct -j 4 --budget 540  # four at a time, for nine minutes; go on in the next call

A stage runs again if its command, the params that it declares, or the bytes of a dep changed since
`scratch/direct.json` recorded them. Each writes its output to `scratch/logs/`. The CPU threads are divided
among the jobs; GPUs are dealt out in turn. A stage that fails is named with its last lines, what depends on
it is left out, and the others finish (exit status 1). What is cut off goes on from its checkpoint (exit
status 75). dvc.lock is not written, so `dvc repro` runs all of it again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import save_json
from sslood.core.settings import load_params
from tools.graph import Cell, cells, digest, needed, order

RECORD, LOGS = Path("scratch/direct.json"), Path("scratch/logs")
CUT_OFF = 75  # exit status: try again
LINES = 8  # of a failed stage's output
WAIT = 0.05  # seconds between two looks at the jobs
PATIENCE = 20.0  # seconds in which a job that is stopped saves its checkpoint


@dataclass
class Job:
    """A stage that is running."""

    cell: Cell
    process: subprocess.Popen
    gpu: int
    start: float


class Runner:
    """Runs cells, which come in the order of the graph, `jobs` at a time."""

    def __init__(self, todo: Sequence[Cell], jobs: int, say: Callable[[str], object] = click.echo):
        self.todo, self.jobs, self.say = todo, jobs, say
        self.waiting, self.running, self.failed = list(todo), list[Job](), list[str]()
        self.done, self.gpus = _record(), max(1, torch.cuda.device_count())

    def run(self, budget: float) -> tuple[list[str], list[str]]:
        """Return (names that failed, names that `budget` seconds were not enough for)."""
        end = time.monotonic() + budget
        LOGS.mkdir(parents=True, exist_ok=True)
        try:
            while self.waiting or self.running:
                self._collect()
                if time.monotonic() > end:
                    return self.failed, [c.name for c in [*(job.cell for job in self.running), *self.waiting]]
                if not self._start() and not self.running:
                    for cell in self.waiting:
                        self.say(f"left out {cell.name}: what it needs failed")
                    break
                time.sleep(WAIT)
        finally:
            _stop(self.running)
        return self.failed, []

    def _collect(self) -> None:
        """Take note of the jobs that ended."""
        for job in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(job)
            took = f"{time.monotonic() - job.start:.0f} s"
            if job.process.returncode:
                self.failed.append(job.cell.name)
                self.say(f"failed {job.cell.name} ({took}):\n  {_tail(job.cell)}")
                continue
            self.done[job.cell.name] = digest(job.cell)
            save_json(RECORD, self.done)
            self.say(f"done {job.cell.name} ({took})")

    def _start(self) -> bool:
        """Start what is ready, as far as there is room; return whether anything was."""
        ready = self._ready()
        for cell in ready[: self.jobs - len(self.running)]:
            self.waiting.remove(cell)
            if self.done.get(cell.name) == digest(cell) and all(Path(out).exists() for out in cell.outs):
                self.say(f"current {cell.name}")
                continue
            used = [job.gpu for job in self.running]
            self.running.append(_started(cell, min(range(self.gpus), key=used.count), self.jobs))
        return bool(ready)

    def _ready(self) -> list[Cell]:
        """Return the waiting cells that need nothing that waits, runs or failed."""
        unmade = {cell.name for cell in [*self.waiting, *(job.cell for job in self.running)]}
        makers = [cell for cell in self.todo if cell.name in unmade | set(self.failed)]
        return [cell for cell in self.waiting if not any(cell.needs(maker) for maker in makers)]


def _record() -> dict[str, str]:
    """Return the digest of each cell as it last ran; nothing if there is no such record, or a cut one."""
    with suppress(OSError, json.JSONDecodeError):
        return json.loads(RECORD.read_text())
    return {}


def _started(cell: Cell, gpu: int, jobs: int) -> Job:
    """Start a cell in a process group of its own, with its share of the CPU threads."""
    own = {"DVC_STAGE": cell.name}
    if jobs > 1:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        own |= {"SSLOOD_THREADS": threads, "OMP_NUM_THREADS": threads}
    if torch.cuda.device_count() > 1:
        own["CUDA_VISIBLE_DEVICES"] = str(gpu)
    bins = str(Path(sys.executable).parent)
    path = os.pathsep.join([bins, os.environ.get("PATH", "")])
    for out in cell.outs:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    with _log(cell).open("w") as log:
        process = subprocess.Popen(
            cell.cmd, shell=True, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **own, "PATH": path}, start_new_session=True,
        )  # fmt: skip
    return Job(cell, process, gpu, time.monotonic())


def _stop(running: Sequence[Job]) -> None:
    """End what is running; SIGTERM lets it save its checkpoint."""
    for job in running:
        os.killpg(job.process.pid, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    for job in running:
        try:
            job.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(job.process.pid, signal.SIGKILL)


def _log(cell: Cell) -> Path:
    return LOGS / f"{cell.name.replace('/', '_')}.log"


def _tail(cell: Cell) -> str:
    lines = _log(cell).read_text(errors="replace").replace("\r", "\n").splitlines()
    return "\n  ".join([line for line in lines if line.strip()][-LINES:]) or "it printed nothing"


@click.command(cls=Command)
@click.argument("stages", nargs=-1)
@click.option("--jobs", "-j", default=1, type=click.IntRange(1), help="Stages that run at the same time.")
@click.option("--budget", default=float("inf"), help="Seconds after which what runs is cut off.")
def main(stages: tuple[str, ...], jobs: int, budget: float) -> None:
    graph = order(cells(load_params(Path("dvc.yaml")), load_params(Path("params.yaml"))))
    chosen = needed(graph, stages)
    failed, cut = Runner(chosen, jobs).run(budget)
    if cut:
        text = f"{len(cut)} of {len(chosen)} stages are left, from {cut[0]} on; run the same command again"
        click.echo(text, err=True)
        sys.exit(CUT_OFF)
    if failed:
        raise InputError(f"failed: {', '.join(failed)}; their output is in {LOGS}")
    click.echo(f"{len(chosen)} stages are up to date.")


if __name__ == "__main__":
    main()
