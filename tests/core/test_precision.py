"""Precisions: dtypes, autocast, and normal numbers that do not depend on the kernels."""

import os
import subprocess
import sys

import pytest
import torch

from sslood.core.precision import at_least_float32, autocast, dtype_of, has_float64, standard_normal


@pytest.mark.parametrize(
    ("precision", "dtype", "product"),
    [
        ("float64", torch.float64, torch.float64),
        ("float32", torch.float32, torch.float32),
        ("bf16", torch.float32, torch.bfloat16),
    ],
)
def test_what_a_precision_stores_and_multiplies(precision, dtype, product):
    x = torch.ones(2, 2, dtype=dtype_of(precision))
    assert x.dtype == dtype
    with autocast(torch.device("cpu"), precision):
        assert (x @ x).dtype == product
    assert at_least_float32(x @ x).dtype == dtype


def test_half_precision_is_widened_and_no_more():
    for narrow in (torch.bfloat16, torch.float16, torch.float32):
        assert at_least_float32(torch.ones(2, dtype=narrow)).dtype == torch.float32


def test_apples_device_has_no_float64():
    assert [has_float64(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [True, True, False]


DRAWS = """
import hashlib, sys, torch
from sslood.core.precision import standard_normal
from sslood.data.images.augment import draw
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.gaussian import GaussianHead, Mixture
from sslood.nets.networks.heads import build_projector

generator = torch.Generator().manual_seed(0)
tensors = [standard_normal((1000,), generator).float(), draw(1000, generator)]
with seeded(0):
    modules = [build_backbone("densenet-10-6", channels=1), build_projector(64, [32, 16])]
    modules += [GaussianHead(64, 32, single=False), Mixture(3, 32)]
tensors += [value for module in modules for value in module.state_dict().values()]
digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in tensors)).hexdigest()
print(torch.backends.cpu.get_cpu_capability(), digest)
"""


def test_draws_and_initial_weights_are_the_same_under_generic_kernels(root):
    """torch's own float32 normals are not: its AVX2 kernels take other logarithms and cosines."""
    generic = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    results = [
        subprocess.run(
            [sys.executable, "-c", DRAWS],
            cwd=root,
            env={**os.environ, **changes},
            capture_output=True,
            text=True,
        )
        for changes in ({}, generic)
    ]
    assert not results[1].returncode, results[1].stderr
    native, plain = (result.stdout.split() for result in results)
    assert plain[0] == "DEFAULT"
    assert native[1] == plain[1]


def test_normal_numbers_are_normal():
    x = standard_normal((100_000,), torch.Generator().manual_seed(0))
    assert x.dtype == torch.float64
    assert x.mean().item() == pytest.approx(0, abs=0.01)
    assert x.std().item() == pytest.approx(1, abs=0.01)
