"""Two gloo processes beside one: losses, gradients, running statistics and weights after some steps."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.core.machine import Machine, machine
from sslood.nets.training import engine, ranks
from sslood.nets.training.ranks import JoinedBatchNorm
from tests.kit import two_ranks
from tests.kit.training import TRAINED


@pytest.fixture(scope="module")
def two(root, tmp_path_factory):
    """What the first of two processes found for every objective."""
    file = tmp_path_factory.mktemp("ranks") / "two.pt"
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m tests.kit.two_ranks".split()
    environment = {**os.environ, "SSLOOD_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, str(file)], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_train_as_one(two, name, monkeypatch):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    one = two_ranks.trained(name, machine())
    for mine, theirs in zip(one["curves"], two[name]["curves"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-9)
    assert len(one["gradients"]) > 20
    for part in ("gradients", "networks"):
        assert one[part].keys() == two[name][part].keys()
        for key, value in one[part].items():
            torch.testing.assert_close(two[name][part][key], value, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape, kind", [((12, 5), nn.BatchNorm1d), ((6, 5, 4, 3), nn.BatchNorm2d)])
def test_the_joined_batch_norm_is_torchs_on_the_joined_batch(shape, kind):
    generator = torch.Generator().manual_seed(0)
    x, slope = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    results = []
    for module in (kind(5).double(), JoinedBatchNorm(5).double()):
        with torch.no_grad():
            module.weight.copy_(torch.arange(5.0) + 1)
        given = x.clone().requires_grad_()
        out = module(given)
        out.backward(slope)
        module.eval()
        results.append([out, given.grad, module.weight.grad, module.bias.grad, module.running_mean])
        results[-1] += [module.running_var, module.num_batches_tracked, module(x)]
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("count, fits", [(2, True), (3, False), (32, False)])
def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch, count, fits):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    monkeypatch.setattr(engine, "ranks", lambda: count)
    if fits:
        monkeypatch.setattr(engine.Engine, "train", lambda self, checkpoint: [{"trained": 1.0}])
        assert two_ranks.trained("supce", machine())["curves"][0]["trained"] == 1
        return
    with pytest.raises(InputError, match=f"batch_size is 32, which {count} processes cannot share equally"):
        two_ranks.trained("supce", machine())


def test_several_processes_fail_with_one_sentence(root, tmp_path):
    """A batch that two processes cannot share is said once, without the report of torchrun."""
    from tests.nets.selfsup.test_pretrain import words, write_set

    write_set(tmp_path)
    for package in ("stages", "sslood"):
        (tmp_path / package).symlink_to(root / package)
    settings = {"SSLOOD_DEVICE": "cpu", "SSLOOD_PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.pretrain", *words("simclr", batch_size=63)],
        cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "Error: pretrain simclr-0: batch_size is 63, which 2 processes cannot share equally; use a multiple "
        "of 2, at least 4"
    ]
    assert not list(tmp_path.glob("*out*"))


ALONE = """
import sys

import click
import torch

from sslood.cli.command import StageCommand
from sslood.core.errors import InputError
from sslood.core.machine import machine
from sslood.nets.training.ranks import average, rank, session


@click.command(cls=StageCommand)
@click.argument("who", type=int)
def main(who):
    with session(machine()):
        if rank() == who:
            raise InputError(f"process {who} has no more memory")
        average(torch.ones(3))


main()
"""


@pytest.mark.parametrize("who", [0, 1])
def test_what_ends_one_process_is_said_and_nothing_else(root, tmp_path, who):
    """The others, which wait for it, are ended without a word."""
    (tmp_path / "alone.py").write_text(ALONE)
    settings = {"SSLOOD_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    words = [
        "-m",
        "sslood.nets.training.launcher",
        "--standalone",
        "--nproc_per_node=2",
        "alone.py",
        str(who),
    ]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [f"Error: process {who} has no more memory"]


SLEEPS = """
import os, pathlib, time
import torch
from sslood.core.machine import machine
from sslood.nets.training.ranks import rank, session

with session(machine()):
    pathlib.Path(f"{rank()}.new").write_text(str(os.getpid()))
    os.rename(f"{rank()}.new", f"{rank()}.pid")
    time.sleep(60)
"""


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's end")
def test_a_killed_launcher_leaves_no_process_behind(root, tmp_path):
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    settings = {"SSLOOD_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    words = ["-m", "sslood.nets.training.launcher", "--standalone", "--nproc_per_node=2", "sleeps.py"]
    launcher = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env={**os.environ, **settings})
    files = [tmp_path / f"{number}.pid" for number in range(2)]
    while not all(file.exists() for file in files):
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.kill()
    launcher.wait()
    pids = [int(file.read_text()) for file in files]
    until = time.monotonic() + 20
    while any(map(_runs, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_runs, pids))


@pytest.mark.parametrize(
    "asked, own, message",
    [
        ("cuda", 2, "4 processes on this machine, but torch sees 2 CUDA device"),
        ("cuda:1", 0, "SSLOOD_DEVICE asks for cuda:1, but each of several processes takes a card of its own"),
    ],
)
def test_every_process_needs_a_card(monkeypatch, asked, own, message):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": str(own)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    here = Machine(torch.device(asked), compile=False, scratch=Path("scratch"))
    with pytest.raises(InputError, match=message), ranks.session(here):
        raise AssertionError("it began")


def test_torchrun_writes_the_files_once(root, tmp_path, monkeypatch):
    """Asked for two processes by SSLOOD_PROCESSES, the stage ends as with one.

    In float64: in float32 the order of sums shows after two epochs, on some processors more than on others.
    """
    from tests.nets.selfsup.test_pretrain import content, words, write_set

    write_set(tmp_path)
    for package in ("stages", "sslood"):
        (tmp_path / package).symlink_to(root / package)
    how = {"epochs": 2, "knn_every": 2, "precision": "float64"}
    for out, processes in (("one", "1"), ("two", "2")):
        settings = {"SSLOOD_DEVICE": "cpu", "SSLOOD_PROCESSES": processes, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "stages.pretrain", *words("simclr", out, **how)],
            cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"Wrote {out}.safetensors: simclr after 2 epochs") == 1
    one, two = (content(tmp_path, out)[1].decode().splitlines() for out in ("one", "two"))
    for mine, theirs in zip(one[1:], two[1:], strict=True):
        numbers = [[float(word or 0) for word in row.split(",")] for row in (mine, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)
    assert ranks.ranks() == 1
