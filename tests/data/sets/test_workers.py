"""Forked processes: what they return, and that none outlives its parent or is waited for in vain."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from sslood.core.errors import InputError
from sslood.data.sets.workers import forked, shared

PROGRAM = """
import os, sys, time
from sslood.data.sets.workers import forked
def work(job):
    if job == 0:
        print("started", flush=True)
    time.sleep(0.02)
try:
    with forked(work, 100_000) as results:
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


def test_every_job_is_done_once_by_another_process():
    memory = shared((50, 3))

    def work(job):
        memory[job] += job
        return os.getpid(), job * job

    with forked(work, 50) as results:
        found = dict(results)
    assert {job: square for job, (_, square) in found.items()} == {job: job * job for job in range(50)}
    assert os.getpid() not in {process for process, _ in found.values()}
    assert (memory == [[job] * 3 for job in range(50)]).all()
    assert not multiprocessing.active_children()


def test_the_first_error_in_order_is_raised():
    def work(job):
        if job == 0:
            time.sleep(0.2)
        if job in (0, 1, 7):
            raise InputError(f"job {job}")

    with pytest.raises(InputError, match="^job 0$"), forked(work, 20) as results:
        list(results)
    assert not multiprocessing.active_children()


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError) as failure, forked(lambda job: 1 // job, 3) as results:
        list(results)
    assert "1 // job" in failure.value.__notes__[0]


def test_a_killed_process_is_noticed():
    def work(job):
        if job == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InputError, match="was killed"), forked(work, 1000) as results:
        list(results)
    assert not multiprocessing.active_children()


def test_results_that_nobody_wants_end_the_processes():
    with forked(lambda job: bytes(100_000), 1000) as results:
        next(results)
    assert not multiprocessing.active_children()


def test_none_to_do():
    with forked(lambda job: job, 0) as results:
        assert list(results) == []


def test_control_c_ends_all_and_only_the_parent_speaks(program):
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=20)  # ends when the last process has closed its output
    assert (out, err, program.returncode) == ("interrupted\n", "", 130)


def test_no_process_outlives_its_killed_parent(program):
    program.kill()
    assert program.communicate(timeout=20) == ("", "")
