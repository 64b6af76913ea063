"""The engine's promise of float64: the same bytes under other kernels and with another number of threads."""

import os
import subprocess
import sys

import torch

from sslood.nets.training.engine import round_weights

RUN = """
import hashlib, sys, torch
from sslood.core.machine import machine
from tests.kit import two_ranks

torch.set_num_threads(int(sys.argv[1]))
for name in ("simclr", "dino", "bayes_h_vicreg"):
    run = two_ranks.trained(name, machine(), epochs=4, precision=sys.argv[2])
    content = [value.float().numpy().tobytes() for value in run["networks"].values()]
    rows = [f"{key} {value:.6g}" for row in run["curves"] for key, value in row.items()]
    print(name, *(hashlib.sha256(x).hexdigest() for x in (b"".join(content), "".join(rows).encode())))
print(torch.backends.cpu.get_cpu_capability())
"""


def trained(root, threads, precision="float64", **kernels):
    """Return what a process prints that trains a few objectives under these kernels."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(threads), precision], cwd=root, capture_output=True, text=True,
        env={**os.environ, "SSLOOD_DEVICE": "cpu", **kernels},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_float64_trains_the_same_networks_under_other_kernels_and_threads(root):
    native = trained(root, 1)
    generic = trained(root, 2, ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41")
    assert generic[-1] == "DEFAULT"
    assert native[:-1] == generic[:-1]


def test_rounding_takes_noise_away_and_keeps_counts_and_values():
    module = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40)).double()
    torch.nn.init.normal_(module[0].weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(module[0].bias, generator=torch.Generator().manual_seed(1))
    module[1].num_batches_tracked.fill_(7)
    twin = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40)).double()
    twin.load_state_dict(module.state_dict())
    with torch.no_grad():
        for weight in twin.parameters():
            weight.mul_(1 + 1e-14)
    before = module[0].weight.detach().clone()
    for each in (module, twin):
        round_weights(each)
    for mine, theirs in zip(module.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    after = module[0].weight.detach()
    assert 0 < (after - before).abs().max() < 4e-6 * before.abs().max()
    assert torch.equal(after.float().double(), after)  # float32 holds it exactly
    assert module[1].num_batches_tracked.item() == 7
