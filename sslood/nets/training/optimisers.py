"""Optimisers by name: SGD and AdamW of torch, and LARS without a host synchronisation."""

from collections.abc import Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from sslood.core.errors import known

NAMES = ("sgd", "adamw", "lars")


class _WithoutCompiler(torch.optim.Optimizer):
    """torch's optimiser without the decorators that exclude its methods from tracing.

    Their first call imports torch._dynamo, 2 to 3 s per training stage, where nothing is compiled. To be
    deleted once torch imports it lazily.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)


class SGD(_WithoutCompiler, torch.optim.SGD):
    """Stochastic gradient descent, torch's."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), torch's."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class LARS(_WithoutCompiler):
    """Layer-wise adaptive rates over momentum SGD, with the layer's rate clipped.

    You et al. 2017, "Large batch training of convolutional networks", arXiv:1708.03888. Per tensor w with
    gradient g: r = min(eta |w| / (|g| + wd |w|) / lr, 1), or 1 where that quotient is not defined; the step
    lr r (g + wd w) goes through the momentum. Tensors of fewer than two dimensions (biases, normalisation)
    are neither scaled nor decayed. The norms stay on the device, so a step never waits for an accelerator,
    and each operation takes all weights at once: on a GPU the number of kernels is what a step costs.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eta: float = 0.02,
    ):
        settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "eta": eta}
        super().__init__(parameters, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = self._scaled(weights, group)
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        if group["nesterov"]:
            velocities = list(torch._foreach_add(gradients, velocities, alpha=group["momentum"]))
        torch._foreach_add_(weights, velocities, alpha=-group["lr"])

    def _scaled(self, weights: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Return the gradients, those of matrices and kernels as r (g + wd w)."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        at = [place for place, weight in enumerate(weights) if weight.ndim > 1]
        if not at:
            return gradients
        decay, layers, slopes = group["weight_decay"], [weights[i] for i in at], [gradients[i] for i in at]
        size, slope = (torch.stack(torch._foreach_norm(tensors)) for tensors in (layers, slopes))
        rate = group["eta"] * size / (slope + decay * size) / max(group["lr"], 1e-30)
        rate = torch.where((size > 0) & (slope > 0), rate.clamp(max=1.0), torch.ones_like(rate))
        decayed = torch._foreach_add(slopes, layers, alpha=decay)
        torch._foreach_mul_(decayed, list(rate.unbind()))
        for place, gradient in zip(at, decayed, strict=True):
            gradients[place] = gradient
        return gradients


def build_optimiser(
    name: str,
    parameters: nn.Module | Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """Return the optimiser `name` over the parameters that require a gradient.

    `momentum` is the first beta of AdamW; `nesterov` concerns sgd and lars, and is ignored without momentum.
    Raises InputError for an unknown name.
    """
    known(name, "optimiser", NAMES)
    tensors = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    fused = bool(trained) and trained[0].is_cuda
    if name == "adamw":
        betas = (momentum, 0.999)
        return AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
    nesterov = nesterov and momentum > 0
    if name == "lars":
        return LARS(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    return SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the rate `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr
