"""Processes: what they return, and that none outlives its parent or is waited for in vain."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from sslood.core.errors import InputError
from sslood.data.sets.workers import processes

PROGRAM = """
import sys, time
from sslood.data.sets.workers import processes
def work(job):
    if job == 0:
        print("started", flush=True)
    time.sleep(0.02)
try:
    with processes(work, range(100_000)) as results:
        for _ in results:
            pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.fixture
def program(root):
    """A program that keeps its processes busy for an hour, in a process group of its own."""
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=root,
    )  # fmt: skip
    assert run.stdout.readline() == "started\n"
    yield run
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


def square(job):
    return os.getpid(), job * job


def failing(job):
    if job == 0:
        time.sleep(0.2)
    if job in (0, 1, 7):
        raise InputError(f"job {job}")


def reciprocal(job):
    return 1 // job


def killed(job):
    if job == 5:
        os.kill(os.getpid(), signal.SIGKILL)


def test_every_job_is_done_in_order_by_another_process():
    with processes(square, range(50)) as results:
        found = list(results)
    assert [value for _, value in found] == [job * job for job in range(50)]
    assert os.getpid() not in {process for process, _ in found}
    assert not multiprocessing.active_children()


def test_the_first_error_in_order_is_raised():
    with pytest.raises(InputError, match="^job 0$"), processes(failing, range(20)) as results:
        list(results)
    assert not multiprocessing.active_children()


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError) as failure, processes(reciprocal, range(3)) as results:
        list(results)
    assert "1 // job" in str(failure.value.__cause__)


def test_a_killed_process_is_noticed():
    with pytest.raises(InputError, match="was killed"), processes(killed, range(1000)) as results:
        list(results)
    assert not multiprocessing.active_children()


def test_results_that_nobody_wants_end_the_processes():
    with processes(square, range(10_000)) as results:
        next(results)
    assert not multiprocessing.active_children()


def test_none_to_do():
    with processes(square, []) as results:
        assert list(results) == []


def test_control_c_ends_all_and_only_the_parent_speaks(program):
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=20)  # ends when the last process has closed its output
    assert (out, err, program.returncode) == ("interrupted\n", "", 130)


def test_no_process_outlives_its_killed_parent(program):
    program.kill()
    assert program.communicate(timeout=20) == ("", "")
