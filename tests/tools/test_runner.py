"""How the machine is divided among stages: memory, threads, GPUs, and who goes first."""

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sslood.core.errors import InputError
from tools import jobs
from tools.direct import Direct
from tools.graph import Cell
from tools.memory import Needs, Room, free_memory


def cell(name: str, *deps: str, cmd: str = "") -> Cell:
    return Cell(name, cmd or f"cat {' '.join(deps)} > {name}", deps, (name,), "{}")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").write_text("word")
    return tmp_path


def test_needs_are_measured_and_those_of_the_same_stage_stand_in(tmp_path):
    needs = Needs(tmp_path / "needs.json")
    assert needs.need(cell("pretrain@a")) == 1.0e9
    needs.note("pretrain@a", 12.0, 3.0e9)
    needs.note("pretrain@b", 12.0, 2.0e9)
    again = Needs(tmp_path / "needs.json")
    assert [again.need(cell(f"pretrain@{name}")) for name in "abc"] == [3.0e9, 2.0e9, 3.0e9]
    assert again.seconds == {"pretrain@a": 12.0, "pretrain@b": 12.0}


def test_too_many_jobs_for_the_memory_are_refused_with_the_number_that_fits():
    room = Room(3.5e9, Needs(Path("none")))
    many = [cell(f"s@{number}") for number in range(9)]
    with pytest.raises(InputError, match=r"J=8: even the 8 smallest .* need 8.0 GB .* 3.5 GB .* say J=3,"):
        room.check(8, many)
    room.check(3, many)
    room.check(8, many[:3])  # no more than that can run
    Room(0.1e9, Needs(Path("none"))).check(1, many)


def test_the_limit_of_a_container_counts(tmp_path):
    group = tmp_path / "cgroup"
    group.write_text("0::/a/b\n")
    inner = tmp_path / "fs/a/b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    assert free_memory(tmp_path / "fs", group) > 1e6
    for name, value in (("max", 5000), ("current", 3000), ("stat", "anon 2000\ninactive_file 900")):
        (inner.parent / f"memory.{name}").write_text(f"{value}\n")
    assert free_memory(tmp_path / "fs", group) == 5000 - (3000 - 900)


def test_a_stage_waits_until_there_is_memory_for_it(inside):
    """Both fit by number, not by memory: they never run at the same time."""
    alone = "mkdir one && sleep 0.1 && rmdir one && touch"
    said: list[str] = []
    runner = Direct([cell("p", cmd=f"{alone} p"), cell("q", cmd=f"{alone} q")], 2, said.append)
    runner.room = Room(1.5e9, Needs())
    assert runner.run() == ([], [])
    assert said[0] == "waits q: 1.0 GB of memory are not free yet" and sum("waits" in s for s in said) == 1


def test_the_longest_chain_goes_first(inside):
    said: list[str] = []
    graph = [cell("short", "in"), cell("long", "in"), cell("more", "long"), cell("most", "more")]
    assert Direct(graph, 1, said.append).run() == ([], [])
    assert [line.split()[1] for line in said] == ["long", "more", "short", "most"]
    assert said[-1].endswith("4 of 4")


def test_the_peak_of_a_job_is_that_of_its_largest_process(inside):
    """A child's peak begins with the size of its parent, which is that of pytest."""
    grow = f"python3 -c 'bytearray({10**9}); print()'"
    job = jobs.started(cell("big"), ["/bin/sh", "-c", grow], 0, {})
    while not job.ended():
        time.sleep(0.01)
    own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert job.status == 0 and 1.0e9 < job.peak < max(1.1e9, 1.1 * own)


def test_an_interrupt_ends_the_jobs_and_all_that_they_started(inside):
    """The shell that leads the group ends at once; what it started saves first."""
    child = "(trap 'sleep 0.3; echo saved > kept; exit' TERM; touch up; sleep 30 & wait) & sleep 30"
    wait = "until [ -e up ]; do sleep 0.02; done"

    def say(line: str) -> None:
        raise KeyboardInterrupt

    runner = Direct([cell("slow", cmd=child), cell("quick", cmd=wait)], 2, say)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert Path("kept").read_text() == "saved\n"
    [job] = runner.running
    with pytest.raises(ProcessLookupError):
        os.killpg(job.process.pid, 0)


def test_what_does_not_listen_is_killed(inside, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.2)
    deaf = "trap '' INT TERM; touch up; sleep 30"
    job = jobs.started(cell("deaf"), ["/bin/sh", "-c", deaf], 0, {})
    while not Path("up").exists():
        time.sleep(0.01)
    monkeypatch.setattr(jobs, "_wait", lambda those, seconds, wait=jobs._wait: wait(those, min(seconds, 0.3)))
    jobs.stop([job], signal.SIGINT)
    assert job.status == -signal.SIGKILL


def test_threads_are_shared_and_the_users_own_choice_stands(monkeypatch):
    monkeypatch.setattr(jobs, "cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert jobs.threads(1) == {}
    assert jobs.threads(4) == {"SSLOOD_THREADS": "2", "OMP_NUM_THREADS": "2"}
    assert jobs.threads(20)["SSLOOD_THREADS"] == "1"
    monkeypatch.setenv("SSLOOD_THREADS", "3")
    assert jobs.threads(4) == {"SSLOOD_THREADS": "3", "OMP_NUM_THREADS": "3"}
    monkeypatch.setenv("SSLOOD_LAUNCH", "srun")
    assert jobs.threads(4) == {}


def test_gpus_are_dealt_out_in_turn_by_the_names_that_are_visible(inside, monkeypatch):
    monkeypatch.setattr(jobs, "DRIVERS", ("in",))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "2\n"))
    assert jobs.gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert jobs.gpus() == ["5", "7"]
    meet = "echo $CUDA_VISIBLE_DEVICES > {0}; until [ -e a -a -e b ]; do sleep 0.02; done"
    runner = Direct([cell(name, cmd=meet.format(name)) for name in "ab"], 2, lambda _: None)
    assert runner.run() == ([], [])
    assert {Path(name).read_text() for name in "ab"} == {"5\n", "7\n"}
    for name, value in (("SSLOOD_DEVICE", "cpu"), ("SSLOOD_LAUNCH", "srun")):
        with monkeypatch.context() as other:
            other.setenv(name, value)
            assert jobs.gpus() == []
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "1\n"))
    assert jobs.gpus() == []
