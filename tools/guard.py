"""Ends the jobs of a process that was killed: a small process of its own waits until its parent is gone.

The parent tells it through a pipe which process groups are at work. However the parent ends, the system
closes the pipe. What is still at work then gets the signal that lets it save its checkpoint, and later
SIGKILL.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

PATIENCE = 20.0  # seconds in which a job that is stopped saves its checkpoint


class Guard:
    """The parent's end of the pipe; the process begins with the first group."""

    def __init__(self, patience: float = PATIENCE):
        self.patience, self.process = patience, None  # type: float, subprocess.Popen[str] | None

    def add(self, group: int, first: signal.Signals) -> None:
        """Guard a process group, which `first` lets save."""
        if self.process is None:
            words = [sys.executable, "-IS", __file__, str(self.patience)]
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, text=True, bufsize=1,
            )  # fmt: skip
        self._say(f"{group} {int(first)}")

    def forget(self, group: int) -> None:
        """Leave a group alone, because it is over: another one may get its number."""
        self._say(f"{group} 0")

    def close(self) -> None:
        """End what is still guarded, and wait until the guard is over."""
        if self.process is not None:
            with suppress(BrokenPipeError):
                self.process.communicate()
            self.process = None

    def _say(self, line: str) -> None:
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):  # the guard was killed; jobs go on without it
                self.process.stdin.write(f"{line}\n")


def end(groups: dict[int, int], patience: float) -> None:
    """End process groups: {group: its first signal}."""
    for what, seconds in ((0, patience), (signal.SIGTERM, min(patience, 1.0)), (signal.SIGKILL, 0.0)):
        for group, first in groups.items():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, what or first)
        limit = time.monotonic() + seconds
        while _any(groups) and time.monotonic() < limit:
            time.sleep(0.02)


def _any(groups: Iterable[int]) -> bool:
    """Whether anything of the groups is left."""
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return True
    return False


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # what may be sent to all of a kind
        signal.signal(number, signal.SIG_IGN)
    guarded: dict[int, int] = {}
    for line in sys.stdin:
        group, first = map(int, line.split())
        guarded[group] = first
    end({group: first for group, first in guarded.items() if first}, float(sys.argv[1]))
