"""SSLOOD_COMPILE=1: steps are traced and differentiate as without it; a failure of the compiler gives way.

The graphs run through torch's own kernels (backend "aot_eager"), which takes seconds where generating code
takes minutes; what is tested is that tracing changes no result.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from sslood.core.machine import machine
from sslood.nets.training.compiling import Compiled
from tests.kit import two_ranks


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    yield machine()
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["simclr", "byol", "dino", "bayes_h_vicreg", "bayes_z_barlow_twins"])
def test_a_compiled_run_is_the_plain_one(here, name, capsys):
    plain = two_ranks.trained(name, here, precision="float32")
    compiled = two_ranks.trained(name, replace(here, compile=True), precision="float32")
    assert "torch.compile failed" not in capsys.readouterr().err
    for mine, theirs in zip(plain["curves"], compiled["curves"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3)
    for key, value in plain["networks"].items():
        torch.testing.assert_close(compiled["networks"][key], value, rtol=1e-3, atol=1e-4)


def fails(*arguments):
    raise torch._dynamo.exc.BackendCompilerFailed(fails, RuntimeError("no compiler\nhere"), None)


def test_a_failure_of_the_compiler_is_said_once_and_the_function_runs(monkeypatch, capsys):
    import torch._dynamo  # noqa: F401  imported by torch.compile, too

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    double = Compiled(lambda x: 2 * x, "pretrain simclr-0, step")
    assert double(3) == 6 and double(4) == 8
    said = capsys.readouterr().err
    assert said.startswith("pretrain simclr-0, step: torch.compile failed (BackendCompilerFailed: ")
    assert said.count("\n") == 1 and "running without it" in said


def test_a_failure_in_the_backward_pass_is_caught_too(monkeypatch, capsys):
    import torch._dynamo
    from torch._dynamo.backends.common import aot_autograd

    backend = aot_autograd(fw_compiler=lambda graph, inputs: graph, bw_compiler=fails)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    weight = torch.ones(3, requires_grad=True)
    Compiled(lambda x: (x * weight).square().sum(), "toy")(torch.arange(3.0)).backward()
    torch.testing.assert_close(weight.grad, 2 * torch.arange(3.0) ** 2)
    assert capsys.readouterr().err.startswith("toy: torch.compile failed (BackendCompilerFailed: ")


def test_errors_of_the_function_itself_pass(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(ZeroDivisionError):
        Compiled(lambda x: 1 / x, "")(0)
