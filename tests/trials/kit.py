"""Trials of bad and awkward input: each in a process of its own, with its time and memory, and a verdict.

A room is a file of this folder with TITLE and trials(folder), which yields the same trials every time.
"""

import faulthandler
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SECONDS, MEGABYTES = 10.0, 1000.0  # of a processor and of memory: what a case may take
FRESH = 200.0  # megabytes, without mapped files, of a process that has imported what the commands need
ROOM = 4 << 30  # bytes of address space beyond today's, so that a faulty case cannot take the machine
Kind = Literal["right", "silent", "stopped", "unnamed", "traceback", "limits"]
MEANING: dict[Kind, str] = {
    "right": "refused in one sentence that names the culprit, or taken with the right result",
    "silent": "taken without a word though it should not be, or with a wrong result",
    "stopped": "refused though it should be taken",
    "unnamed": "refused without naming what is wrong",
    "traceback": "ended with a traceback or by a signal",
    "limits": f"took over {SECONDS:.0f} s or {MEGABYTES:.0f} MB",
}


@dataclass(frozen=True)
class Outcome:
    """How a call ended: exit status (negative: the signal), output of both kinds, seconds of a
    processor, peak megabytes.
    """

    status: int
    output: str
    seconds: float
    peak: float


@dataclass(frozen=True)
class Verdict:
    """What became of a trial, and what a reader needs to see why."""

    kind: Kind
    detail: str = ""


@dataclass(frozen=True)
class Trial:
    """One case: run does it and judges."""

    name: str
    run: Callable[[], Verdict]


def call(main: Callable[..., Any], *args: object, cwd: Path | None = None, **environ: str) -> Outcome:
    """Run a click command with arguments, or any function with them, in a forked child.

    It is killed after six times SECONDS. cwd: the child's folder; environ: added to its environment.
    A function that returns a text prints it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        with warnings.catch_warnings():  # Python 3.12 warns of any fork beside threads
            warnings.simplefilter("ignore")
            start, before, pid = time.monotonic(), _resident(), os.fork()
        if pid == 0:
            _child(main, args, cwd, environ, captured.fileno())
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            if time.monotonic() - start > 6 * SECONDS:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.002)
        captured.seek(0)
        output = captured.read().decode(errors="backslashreplace")
    used = ended[2]  # of the child and of those that it has waited for
    seconds = used.ru_utime + used.ru_stime
    grown = used.ru_maxrss / 1024 - max(0.0, before - FRESH)  # a large parent's memory is not the command's
    return Outcome(os.waitstatus_to_exitcode(ended[1]), output, seconds, grown)


def _resident() -> float:
    """Return the megabytes that this process holds, which a fork begins with: all but mapped files."""
    resident, mapped = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - mapped) * resource.getpagesize() / 2**20


def _child(main: Any, args: tuple[object, ...], cwd: Path | None, environ: dict[str, str], to: int) -> None:
    """Run `main` and leave the process; nothing of the parent's (atexit, pytest) may run here."""
    status = 99
    try:
        os.setpgid(0, 0)
        faulthandler.disable()  # pytest's would write of a crash to the terminal
        for stream in (1, 2):
            os.dup2(to, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | environ
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # the parent's threads do not exist here
        os.chdir(cwd or ".")
        if hasattr(main, "main"):
            main.main([str(arg) for arg in args])
        else:
            print(main(*args) or "")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def refused(outcome: Outcome, *words: str) -> Verdict:
    """Judge a call that should be refused: one sentence that holds all `words`, e.g. the file's name."""
    if (bad := _broken(outcome)) is not None:
        return bad
    if outcome.status == 0:
        return Verdict("silent", outcome.output[-300:])
    missing = [word for word in words if word not in outcome.output]
    return Verdict("unnamed", f"no {missing} in {outcome.output[-300:]}") if missing else Verdict("right")


def taken(outcome: Outcome, check: Callable[[], str | None] = lambda: None) -> Verdict:
    """Judge a call that should succeed; `check` returns what is wrong with what it wrote, if anything."""
    if (bad := _broken(outcome)) is not None:
        return bad
    if outcome.status:
        return Verdict("stopped", outcome.output[-300:])
    wrong = check()
    return Verdict("silent", wrong) if wrong else Verdict("right")


def either(outcome: Outcome, *words: str, check: Callable[[], str | None] = lambda: None) -> Verdict:
    """Judge a call that may be refused by name or taken with a right result."""
    return refused(outcome, *words) if outcome.status else taken(outcome, check)


def _broken(outcome: Outcome) -> Verdict | None:
    """Return the verdict on a call that broke down or took too much, however it should have ended."""
    if outcome.seconds > SECONDS or outcome.peak > MEGABYTES:
        return Verdict("limits", f"{outcome.seconds:.1f} s, {outcome.peak:.0f} MB")
    if outcome.status < 0 or outcome.status == 99 or "Traceback (most recent" in outcome.output:
        return Verdict("traceback", f"{outcome.status}: {outcome.output[-300:]}")
    return None
