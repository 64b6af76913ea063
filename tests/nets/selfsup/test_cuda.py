"""Steps of pretraining on a CUDA device that is pretended: nothing is read back, nothing copied in a step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from benchmarks import gpu
from sslood.core.machine import Machine
from tests.kit.pretended import CUDA, pretended_cuda
from tests.kit.training import TRAINED

FORM = replace(gpu.LARGE, batch=16)
HERE = Machine(CUDA, compile=False, scratch=Path("scratch"))


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_neither_waits_for_the_card_nor_leaves_it(name):
    with pretended_cuda() as copies:
        task, engine = gpu.build(name, FORM, HERE, "cifar10", clip=1.0)
        batches = task.batches(iter(list(engine.indices(0))))  # the order travels once per epoch
        copies.watching = True
        terms = [engine.step(step, batches) for step in range(2)]
    assert {term.device for step in terms for term in step.values()} == {CUDA}
    assert {term.dtype for step in terms for term in step.values()} == {torch.float32}
    assert {weight.grad.device for weight in task.modules.parameters() if weight.requires_grad} == {CUDA}
    assert copies.found == []


def test_what_the_test_above_would_find():
    with pretended_cuda() as copies:
        x = torch.zeros(3, device=CUDA)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises(RuntimeError, match="device"):
            x + torch.zeros(3)
        copies.watching = True
        torch.zeros(3).to(CUDA)
        x.cpu()
    assert len(copies.found) == 2
