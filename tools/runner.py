"""The stages of a graph, several at a time: each starts as soon as what it needs is made and there is room.

What differs between a run by DVC (tools/parallel.py) and one without it (tools/direct.py) are six methods.
"""

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import click

from sslood.core.errors import InputError
from tools.graph import Cell
from tools.guard import Guard
from tools.jobs import Job, gpus, started, stop, tail, threads
from tools.memory import Room

WAIT = 0.05  # seconds between two looks at the jobs


def _number(context: click.Context, option: click.Parameter, value: float) -> float:
    if math.isnan(value):  # no comparison with it is true, so that nothing would ever be cut off
        raise InputError(f"--{option.name} must be a number of seconds, found nan")
    return value


budget_option = click.option(
    "--budget", default=math.inf, callback=_number, help="Seconds after which what runs is cut off."
)


class Runner(ABC):
    """Runs cells, which come in the order of the graph, `jobs` at a time."""

    stop_by = signal.SIGTERM  # what lets a job save its checkpoint

    def __init__(
        self,
        chosen: Sequence[Cell],
        jobs: int,
        say: Callable[[str], object] = print,
        room: Room | None = None,
        weights: Mapping[str, float] | None = None,
    ):
        """room: the memory to share, None = no matter; weights: seconds of cells, where known."""
        self.chosen, self.jobs, self.say, self.room = list(chosen), jobs, say, room
        self.waiting, self.running, self.failed = list(chosen), list[Job](), list[str]()
        self.gpus, self.threads, self.guard = gpus(), threads(jobs), Guard()
        self.makers = makers(self.chosen)
        self.urgency = _urgency(self.chosen, self.makers, weights or {})
        self.held = set[str]()  # names that have waited for memory, said once
        self.outdated = set[str]()  # names that are known to be: the inputs of a ready cell stay as they are

    @abstractmethod
    def current(self, cell: Cell) -> bool:
        """Whether a cell whose inputs are made is up to date."""

    @abstractmethod
    def command(self, cell: Cell) -> list[str]:
        """Return the command that makes a cell."""

    @abstractmethod
    def finished(self, job: Job) -> str:
        """Take note of a job that went well; return what it did, in a word."""

    def passed(self, cell: Cell) -> None:
        """Take note of a cell that is up to date."""
        self.say(f"current {cell.name}")

    def environment(self, cell: Cell) -> dict[str, str]:
        """Return the variables of a cell's process."""
        return {}

    def starting(self, cell: Cell) -> None:
        """Take note of a cell whose process is about to start."""
        return

    def run(self, budget: float = float("inf")) -> tuple[list[str], list[str]]:
        """Return (names that failed, names that `budget` seconds were not enough for).

        However it ends, also by Ctrl-C or SIGTERM, no job is left running. If this process is killed, its
        guard ends them.
        """
        end = time.monotonic() + budget
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
            stop(self.running, self.stop_by, self.guard)
        return self.failed, []

    def _collect(self) -> None:
        """Take note of the jobs that ended."""
        for job in [job for job in self.running if job.ended()]:
            self.running.remove(job)
            self.guard.forget(job.process.pid)
            took = f"{time.monotonic() - job.start:.0f} s"
            if job.status:
                self.failed.append(job.cell.name)
                self.say(f"failed {job.cell.name} ({took}):\n  {tail(job.cell)}")
            else:
                word = self.finished(job)
                over = len(self.chosen) - len(self.waiting) - len(self.running)
                self.say(f"{word} {job.cell.name} ({took}), {over} of {len(self.chosen)}")

    def _start(self) -> bool:
        """Start what is ready, as far as there is room; return whether anything is ready."""
        ready = self._ready()
        for cell in ready:
            if cell.name not in self.outdated and self.current(cell):
                self.waiting.remove(cell)
                self.passed(cell)
                continue
            self.outdated.add(cell.name)
            if len(self.running) < self.jobs and self._fits(cell):
                self.waiting.remove(cell)
                used = [job.gpu for job in self.running]
                gpu = min(range(max(1, len(self.gpus))), key=used.count)
                dealt = {"CUDA_VISIBLE_DEVICES": self.gpus[gpu]} if self.gpus else {}
                variables = {**self.threads, **dealt, **self.environment(cell)}
                self.starting(cell)
                self.running.append(started(cell, self.command(cell), gpu, variables))
                self.guard.add(self.running[-1].process.pid, self.stop_by)
        return bool(ready)

    def _fits(self, cell: Cell) -> bool:
        """Whether there is memory for a cell beside what runs; alone, any may try."""
        if self.room is None or not self.running:
            return True
        fits = self.room.fits([*(job.cell for job in self.running), cell])
        if not fits and cell.name not in self.held:
            self.held.add(cell.name)
            self.say(f"waits {cell.name}: {self.room.need(cell) / 1e9:.1f} GB of memory are not free yet")
        return fits

    def _ready(self) -> list[Cell]:
        """Return the waiting cells that need nothing that waits, runs or failed, the most urgent first."""
        unmade = {cell.name for cell in [*self.waiting, *(job.cell for job in self.running)]}
        unmade |= set(self.failed)
        ready = [cell for cell in self.waiting if not self.makers[cell.name] & unmade]
        return sorted(ready, key=lambda cell: -self.urgency[cell.name])


def makers(graph: Sequence[Cell]) -> dict[str, set[str]]:
    """Return for each cell the names of those whose outs it needs."""
    return {cell.name: {other.name for other in graph if cell.needs(other)} for cell in graph}


def _urgency(
    graph: Sequence[Cell], makers: Mapping[str, set[str]], weights: Mapping[str, float]
) -> dict[str, float]:
    """Return for each cell the seconds of the longest chain of cells that begins with it (1 if unknown)."""
    urgency = dict[str, float]()
    for cell in reversed(graph):  # what needs it comes later
        after = [urgency[name] for name in urgency if cell.name in makers[name]]
        urgency[cell.name] = weights.get(cell.name, 1.0) + max(after, default=0.0)
    return urgency
