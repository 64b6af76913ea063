"""Machine settings come from the environment and are refused with the variable's name."""

from pathlib import Path

import pytest
import torch

from sslood.core.errors import InputError
from sslood.core.machine import machine


def test_defaults_on_a_cpu(monkeypatch):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    found = machine()
    assert (found.device.type, found.compile, found.scratch) == ("cpu", False, Path("scratch"))


def test_everything_can_be_set(monkeypatch, tmp_path):
    threads = torch.get_num_threads()
    for name, value in {"DEVICE": "cpu", "COMPILE": "1", "THREADS": "1"}.items():
        monkeypatch.setenv(f"SSLOOD_{name}", value)
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path))
    found = machine()
    assert (found.compile, found.scratch, torch.get_num_threads()) == (True, tmp_path, 1)
    torch.set_num_threads(threads)


def test_a_device_without_float64_leaves_it_to_the_cpu_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("SSLOOD_DEVICE", "mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine("float32").device.type == "mps"
    assert capsys.readouterr().err == ""
    assert machine("float64").device.type == "cpu"
    assert (
        capsys.readouterr().err == "mps cannot compute in float64, which the params ask for; using the CPU\n"
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SSLOOD_DEVICE", "gpu", "SSLOOD_DEVICE is 'gpu'; use auto, cpu, cuda"),
        ("SSLOOD_DEVICE", "cuda:77", "SSLOOD_DEVICE asks for cuda:77, but torch sees"),
        ("SSLOOD_DEVICE", "cuda:200", "SSLOOD_DEVICE asks for cuda:200, but torch sees"),
        ("SSLOOD_DEVICE", "xpu", "SSLOOD_DEVICE is 'xpu'; use auto, cpu, cuda"),
        ("SSLOOD_DEVICE", "mps", "SSLOOD_DEVICE asks for mps, but torch finds none; unset it or set"),
        ("SSLOOD_PRECISION", "bf16", "SSLOOD_PRECISION is gone: results depend on it, so write `precision`"),
        ("SSLOOD_THREADS", "0", "SSLOOD_THREADS is '0'; use a number from 1 to 9999"),
        ("SSLOOD_THREADS", "99999999999", "is '99999999999'; use a number from 1 to 9999"),
        ("SSLOOD_THREADS", "9" * 5000, "9'; use a number from 1 to 9999"),
    ],
)
def test_wrong_values_are_named(monkeypatch, name, value, says):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        machine()
    assert says in str(caught.value)
