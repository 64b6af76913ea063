"""What becomes of jobs whose parent is killed, or was started where Ctrl-C is ignored."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tools.closure import ROOT
from tools.direct import Direct
from tools.graph import Cell
from tools.guard import Guard
from tools.jobs import status_of

PARENT = """
from pathlib import Path
from tools.direct import Direct
from tools.graph import Cell
class Watched(Direct):
    def _start(self):
        found = super()._start()
        if self.running:
            Path("guarded").touch()
        return found
Watched([Cell("slow", {cmd!r}, (), (), "{{}}")], 1, print).run()
"""


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def until(condition, seconds: float = 30.0) -> None:
    """Wait; no test depends on how long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def test_jobs_of_a_parent_that_is_killed_save_and_end():
    """The shell that leads the group ends at once; what it started saves first."""
    saves = "(trap 'sleep 0.1; echo saved > kept; exit' TERM; touch up; sleep 60 & wait)"
    script = PARENT.format(cmd=f"{saves} & sleep 60")
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        until(lambda: Path("up").exists() and Path("guarded").exists())
        parent.kill()
    until(Path("kept").exists)


def test_what_does_not_listen_to_the_guard_is_killed():
    deaf = ["sh", "-c", "trap '' INT TERM; echo; sleep 60 & wait"]
    guard = Guard(patience=0.1)
    with subprocess.Popen(deaf, stdout=subprocess.PIPE, start_new_session=True) as job:
        guard.add(job.pid, signal.SIGINT)
        job.stdout.readline()
        guard.close()
        assert job.wait(30) == -signal.SIGKILL


def test_the_guard_leaves_alone_what_it_was_told_to_forget():
    guard = Guard(patience=0.0)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as job:
        guard.add(job.pid, signal.SIGTERM)
        guard.forget(job.pid)
        guard.close()  # returns when the guard is gone
        assert job.poll() is None
        job.kill()


def test_ctrl_c_that_is_ignored_here_reaches_jobs_when_they_are_to_stop():
    """As in the background of a shell. A shell cannot trap a signal that was ignored when it began."""
    wait = "until [ -e up ]; do sleep 0.02; done"
    slow = "trap 'kill $!; wait; echo saved > kept; exit' INT; touch up; sleep 60 & wait"

    def say(line: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # still ignored here
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        runner = Direct([Cell(name, cmd, (), (), "{}") for name, cmd in (("s", slow), ("w", wait))], 2, say)
        runner.stop_by = signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            runner.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert Path("kept").read_text() == "saved\n"


def test_a_command_that_is_stopped_ends_with_all_that_it_started(tmp_path, monkeypatch):
    command = ["sh", "-c", "trap 'wait; exit 1' TERM; sleep 60 & echo $$ > group; mv group up; wait"]

    def sleep(seconds: float, sleep=time.sleep) -> None:
        monkeypatch.undo()
        until((tmp_path / "up").exists)
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.jobs.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        status_of(command, tmp_path / "log", tmp_path, 1e9)
    assert not alive(int((tmp_path / "up").read_text()))


def test_the_status_of_a_command_is_none_if_time_ran_out(tmp_path):
    log = tmp_path / "log"
    assert status_of(["sh", "-c", "echo said; exit 3"], log, tmp_path, 1e9) == 3
    assert log.read_text() == "said\n"
    assert status_of(["sleep", "60"], log, tmp_path, 0.0) is None
