"""Two gloo processes beside one: losses, gradients, running statistics and weights after some steps."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from stages.core.errors import InputError
from stages.machine import machine
from stages.selfsup import pretraining
from stages.training.engine import ranks
from stages.training.engine.ranks import JoinedBatchNorm
from tests import two_ranks


@pytest.fixture
def float64(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def two(root, tmp_path_factory):
    """What the first of two processes found for every objective."""
    file = tmp_path_factory.mktemp("ranks") / "two.pt"
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m tests.two_ranks".split()
    environment = {**os.environ, "SSLOOD_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, str(file)], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", two_ranks.NAMES)
def test_two_processes_train_as_one(two, name, float64, monkeypatch):
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
    monkeypatch.setattr(pretraining, "ranks", lambda: count)
    if fits:
        monkeypatch.setattr(pretraining.Pretraining, "run", lambda self, checkpoint: [])
        monkeypatch.setattr(torch.nn.Module, "named_parameters", lambda self, **_: iter(()))
        assert two_ranks.trained("supce", machine())["curves"] == []
        return
    with pytest.raises(InputError, match=f"batch_size is 32, which {count} processes cannot share equally"):
        two_ranks.trained("supce", machine())


def test_several_processes_fail_with_one_sentence(root, tmp_path):
    """A batch that two processes cannot share is said once, without the report of torchrun."""
    from tests.selfsup.test_pretrain import words, write_set

    write_set(tmp_path)
    (tmp_path / "stages").symlink_to(root / "stages")
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


def test_torchrun_writes_the_files_once(root, tmp_path, monkeypatch):
    """Asked for two processes by SSLOOD_PROCESSES, the stage ends as with one."""
    from tests.selfsup.test_pretrain import content, words, write_set

    write_set(tmp_path)
    (tmp_path / "stages").symlink_to(root / "stages")
    for out, processes in (("one", "1"), ("two", "2")):
        settings = {"SSLOOD_DEVICE": "cpu", "SSLOOD_PROCESSES": processes, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "stages.pretrain", *words("simclr", out, epochs=2, knn_every=2)],
            cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"wrote {out}.safetensors: simclr after 2 epochs") == 1
    one, two = (content(tmp_path, out)[1].decode().splitlines() for out in ("one", "two"))
    for mine, theirs in zip(one[1:], two[1:], strict=True):
        numbers = [[float(word or 0) for word in row.split(",")] for row in (mine, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-2, abs=0.03)  # accuracies are of 200 images
    assert ranks.ranks() == 1
