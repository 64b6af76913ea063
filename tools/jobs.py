"""Stages that run as processes of their own: their share of the machine, their logs, and how they are ended.

Each job leads a process group, so that what it starts ends with it, and writes to `scratch/logs/`. A guard
(tools/guard.py) ends jobs whose parent is killed. With SSLOOD_LAUNCH, stages run elsewhere (tools/launch):
nothing of this machine is divided then.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.graph import Cell
from tools.guard import PATIENCE, Guard

LOGS = Path("scratch/logs")
LAUNCH = Path(__file__).with_name("launch")
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, AMD, and either under Windows
LINES = 8  # of a failed stage's output
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of the peak that the system reports


@dataclass
class Job:
    """A stage that is running; once it has ended, its exit status and its peak memory in bytes."""

    cell: Cell
    process: subprocess.Popen
    gpu: int
    start: float
    status: int | None = None
    peak: int = 0

    def ended(self) -> bool:
        """Whether the process is over; takes note of its status and peak (of its largest process)."""
        if self.status is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.status = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.peak = usage.ru_maxrss * UNIT
        return self.status is not None

    def gone(self) -> bool:
        """Whether the process is over, and all that it started in its group."""
        try:
            if self.ended():
                os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def kill(self, what: signal.Signals) -> None:
        """Send a signal to the whole group, if anything of it is left."""
        if not self.gone():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, what)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launches() -> str:
    """Return the prefix that stages are launched with, or nothing."""
    return os.environ.get("SSLOOD_LAUNCH", "").strip()


def gpus() -> list[str]:
    """Return the names of the CUDA devices to deal out, as CUDA_VISIBLE_DEVICES takes them.

    None, if there are less than two, if SSLOOD_DEVICE names one, or if stages are launched elsewhere.
    """
    if launches() or os.environ.get("SSLOOD_DEVICE", "auto") not in ("auto", "cuda"):
        return []
    if not any(Path(device).exists() for device in DRIVERS):
        return []
    # in a process of its own: torch would make this one large, and a job's peak begins with this one's size
    ask = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    count = int(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible[:count] or [str(number) for number in range(count)]
    return names if count > 1 else []


def threads(jobs: int) -> dict[str, str]:
    """Return the variables that give each of `jobs` jobs its share of the cores.

    The share is fixed, whatever runs at a time, so that results in float32 do not depend on timing. What the
    environment already says stands.
    """
    if jobs == 1 or launches():
        return {}
    share = os.environ.get("SSLOOD_THREADS") or str(max(1, cores() // jobs))
    return {"SSLOOD_THREADS": share, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}


def started(cell: Cell, command: Sequence[str], gpu: int, environment: dict[str, str]) -> Job:
    """Start a command for a cell in a process group of its own, its output in the log of the cell."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    LOGS.mkdir(parents=True, exist_ok=True)
    for out in cell.outs:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    process = spawned(command, log_of(cell), {**os.environ, **environment, "PATH": path})
    return Job(cell, process, gpu, time.monotonic())


def spawned(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.Popen:
    """Start a command in a process group of its own, in `folder` if one is given; its output is in `log`."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # so in the background of a shell; a job would inherit that, and could not be asked to stop
        signal.signal(signal.SIGINT, lambda *_: None)
    with log.open("w") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder,
            env=environment, start_new_session=True,
        )  # fmt: skip


def status_of(command: Sequence[str], log: Path, folder: Path, seconds: float) -> int | None:
    """Run a command in `folder`; return its exit status, None if it took longer than `seconds`.

    However this ends, nothing that the command started is left running.
    """
    guard, end = Guard(), time.monotonic() + seconds
    cell = Cell(" ".join(command), "", (), (), "")
    job = Job(cell, spawned(command, log, os.environ, folder), 0, time.monotonic())
    guard.add(job.process.pid, signal.SIGTERM)
    try:
        while not job.ended() and time.monotonic() < end:
            time.sleep(0.05)
        return job.status
    finally:
        stop([job], guard=guard)


def stop(running: Sequence[Job], first: signal.Signals = signal.SIGTERM, guard: Guard | None = None) -> None:
    """End jobs: `first` lets them save their checkpoints; what goes on after PATIENCE is killed.

    A Ctrl-C meanwhile kills them at once. guard: theirs, which ends with them.
    """
    try:
        for what, patience in ((first, PATIENCE), (signal.SIGTERM, 1.0)):
            for job in running:
                job.kill(what)
            _wait(running, patience)
    finally:
        for job in running:
            job.kill(signal.SIGKILL)
        _wait(running, 5.0)
        if guard is not None:
            for job in running:
                guard.forget(job.process.pid)
            guard.close()


def _wait(jobs: Sequence[Job], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not all([job.gone() for job in jobs]) and time.monotonic() < end:
        time.sleep(0.02)


def log_of(cell: Cell) -> Path:
    """Return where a cell's output is."""
    return LOGS / f"{cell.name.replace('/', '_')}.log"


def tail(cell: Cell) -> str:
    """Return the last lines of a cell's output, indented but for the first."""
    lines = log_of(cell).read_text(errors="replace").replace("\r", "\n").splitlines()
    return "\n  ".join([line for line in lines if line.strip()][-LINES:]) or "it printed nothing"
