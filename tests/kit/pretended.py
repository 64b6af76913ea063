"""A CUDA device that is not there: torch's fake tensors, which have shapes and devices but no values.

What a real card would make slow or refuse shows on any machine: a step that reads a value back (and so waits
for the device), that mixes devices, or that copies between them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
DRAWS = ("rand", "randn", "randint", "randperm")


class Copies(TorchDispatchMode):
    """Collects what is copied from one device to another while `watching`, as "dtype [shape]"."""

    def __init__(self):
        super().__init__()
        self.watching, self.found = False, []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if self.watching and isinstance(result, torch.Tensor):
            devices = {part.device.type for part in (*arguments, result) if _is_large(part)}
            if len(devices) > 1:
                self.found.append(f"{result.dtype} {list(result.shape)}".removeprefix("torch."))
        return result


def _is_large(part: object) -> bool:
    """Whether it is a tensor that has to be copied; a CPU scalar travels with the kernel's arguments."""
    return isinstance(part, torch.Tensor) and (part.ndim > 0 or part.device.type != "cpu")


def _generator(device: torch.device | str = "cpu") -> object:
    """Return what stands for a generator on CUDA; torch can make none without a card."""
    if torch.device(device).type == "cpu":
        return torch._C.Generator("cpu")
    pretended = SimpleNamespace(device=CUDA)
    pretended.manual_seed = lambda seed: pretended
    return pretended


def _without_generator(function):
    return lambda *arguments, generator=None, **options: function(*arguments, **options)


def _moved(module: nn.Module, device=None, dtype=None, non_blocking=False, memory_format=None) -> nn.Module:
    """`Module.to`, which torch's own cannot do for fake tensors: parameters are replaced, keys are kept."""
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                format = memory_format if tensor.ndim == 4 and memory_format else torch.preserve_format
                there = tensor.detach().to(device or tensor.device, memory_format=format)
                store[name] = nn.Parameter(there, tensor.requires_grad) if _is_weight(tensor) else there
    return module


def _is_weight(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _copied(original, memo=None):
    """`deepcopy`, which cannot copy a fake tensor's storage."""
    memo = {} if memo is None else memo
    if isinstance(original, nn.Module):
        for tensor in (*original.parameters(), *original.buffers()):
            copy = torch.empty_like(tensor.detach())
            memo[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if _is_weight(tensor) else copy
    return deepcopy(original, memo)


def _updated(parameters, gradients, *rest, **options) -> None:
    """A fused optimiser's kernel, of which torch has no fake: weights and gradients must lie on the card."""
    assert {tensor.device.type for tensor in (*parameters, *gradients)} == {"cuda"}


def _backward(loss: torch.Tensor) -> None:
    """`Tensor.backward`: the engine wants a card, so every weight in the graph gets a gradient at once."""
    assert loss.requires_grad and loss.ndim == 0 and loss.device == CUDA
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(parent for parent, _ in node.next_functions)
        if hasattr(node, "variable"):
            node.variable.grad = torch.empty_like(node.variable)


@contextmanager
def pretended_cuda() -> Iterator[Copies]:
    """Run a block as if there were one CUDA device; yields what finds copies between devices.

    Modules are built and moved inside the block. A value that is read raises DataDependentOutputException,
    and tensors of different devices a RuntimeError.
    """
    fakes = {
        "torch.Generator": _generator,
        "torch.nn.Module.to": _moved,
        "torch.Tensor.backward": _backward,
        "copy.deepcopy": _copied,
        "torch._fused_sgd_": _updated,
        "torch._fused_adamw_": _updated,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda: True,
        **{f"torch.{name}": _without_generator(getattr(torch, name)) for name in DRAWS},
    }
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        for name, fake in fakes.items():
            stack.enter_context(patch(name, fake))
        yield stack.enter_context(Copies())
