"""torch.compile with a fallback: what the compiler cannot do runs uncompiled."""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config as functorch

_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


class Trained:
    """Drops compiled graphs when other parameters of `modules` are trained than before.

    Up to torch 2.11 a graph that was traced while a parameter was frozen stays in use when it no longer is,
    and gives it no gradient.
    """

    def __init__(self, modules: torch.nn.Module):
        self.modules = modules
        self._flags: list[bool] | None = None

    def watch(self) -> None:
        """Drop all compiled graphs if other parameters require a gradient than at the last call."""
        flags = [parameter.requires_grad for parameter in self.modules.parameters()]
        if self._flags not in (None, flags):
            torch.compiler.reset()
        self._flags = flags


class Compiled:
    """A compiled function; if the compiler fails, stderr says so once and the function itself runs.

    Errors of the function pass through: only those raised by the compiler count as its failure.
    """

    def __init__(self, function: Callable[..., Any], name: str):
        self.function, self.name = function, name
        # the backward pass is compiled with the forward one, here, where its failure is caught too
        functorch.force_non_lazy_backward_lowering = True
        self._run = torch.compile(function)

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._run(*arguments)
        except Exception as error:
            kind = type(error)
            if not kind.__module__.startswith(_COMPILERS):
                raise
            reason = next(iter(str(error).strip().splitlines()), "no reason given")
            print(
                f"{self.name}: torch.compile failed ({kind.__name__}: {reason}); running without it",
                file=sys.stderr,
            )
        self._run = self.function
        return self._run(*arguments)
