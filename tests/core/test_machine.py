"""Machine settings come from the environment and are refused with the variable's name."""

from pathlib import Path

import pytest
import torch

from sslood.core.errors import InputError
from sslood.core.machine import machine


def test_defaults_on_a_cpu(monkeypatch):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    found = machine()
    assert (found.device.type, found.bf16, found.compile, found.scratch) == (
        "cpu",
        False,
        False,
        Path("scratch"),
    )


def test_everything_can_be_set(monkeypatch, tmp_path):
    threads = torch.get_num_threads()
    for name, value in {"DEVICE": "cpu", "PRECISION": "bf16", "COMPILE": "1", "THREADS": "1"}.items():
        monkeypatch.setenv(f"SSLOOD_{name}", value)
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path))
    found = machine()
    assert (found.bf16, found.compile, found.scratch, torch.get_num_threads()) == (True, True, tmp_path, 1)
    torch.set_num_threads(threads)
    with found.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "units", "expected"),
    [
        ("auto", {"avx512_bf16": True}, True),
        ("auto", {"amx_bf16": True}, True),
        ("auto", {"avx512_f": True}, False),
        ("fp32", {"avx512_bf16": True}, False),
    ],
)
def test_large_networks_train_with_the_units_of_the_cpu(monkeypatch, precision, units, expected):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    monkeypatch.setenv("SSLOOD_PRECISION", precision)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    found = machine()
    assert found.for_training(torch.nn.Linear(1000, 1000)).bf16 == expected
    assert not found.bf16 and not found.for_training(torch.nn.Linear(1000, 900)).bf16


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SSLOOD_DEVICE", "gpu", "SSLOOD_DEVICE is 'gpu'; use auto, cpu, cuda"),
        ("SSLOOD_DEVICE", "cuda:77", "SSLOOD_DEVICE asks for cuda:77, but torch sees"),
        ("SSLOOD_DEVICE", "xpu", "SSLOOD_DEVICE is 'xpu'; use auto, cpu, cuda"),
        ("SSLOOD_DEVICE", "mps", "SSLOOD_DEVICE asks for mps, but torch finds none; unset it or set"),
        ("SSLOOD_PRECISION", "fp8", "SSLOOD_PRECISION is 'fp8'; use one of auto, fp32, bf16"),
        ("SSLOOD_THREADS", "0", "SSLOOD_THREADS is '0'; use a number of at least 1"),
    ],
)
def test_wrong_values_are_named(monkeypatch, name, value, says):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        machine()
    assert says in str(caught.value)
