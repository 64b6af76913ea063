"""Optimisers by name: SGD and AdamW of torch, and LARS without a host synchronisation."""

from collections.abc import Iterable
from inspect import unwrap

import torch
from torch import nn

from sslood.core.errors import known

NAMES = ("sgd", "adamw", "lars")


class _WithoutCompiler(torch.optim.Optimizer):
    """torch's optimiser less the wrappers that tell its compiler not to trace: they import it, 2 to 3 s."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)


class SGD(_WithoutCompiler, torch.optim.SGD):
    """Stochastic gradient descent, torch's."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019), torch's."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class LARS(_WithoutCompiler):
    """Layer-wise adaptive rates (You et al. 2017) over momentum SGD, with the layer's rate clipped.

    Per tensor w with gradient g: r = min(eta |w| / (|g| + wd |w|) / lr, 1), or 1 where that quotient
    is not defined; the step lr * r * (g + wd w) goes through the momentum. Tensors of fewer than two
    dimensions (biases, normalisation) are neither scaled nor decayed. The norms stay on the device:
    no branch depends on a tensor's value, so a step never waits for the accelerator.
    """

    def __init__(
        self, parameters, *, lr: float, momentum=0.9, weight_decay=0.0, nesterov=False, eta: float = 0.02
    ):
        settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "eta": eta}
        super().__init__(parameters, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights and weights[0].is_cuda:
                self._update_together(weights, group)
            else:
                for weight in weights:
                    self._update(weight, group)

    def _update_together(self, weights: list[torch.Tensor], group: dict) -> None:
        """As `_update`, with few kernels for all weights: on a GPU their number is what a step costs."""
        scaled = [weight for weight in weights if weight.ndim > 1]
        gradients = [weight.grad for weight in weights]
        if scaled:
            decay, slopes = group["weight_decay"], [weight.grad for weight in scaled]
            size, slope = (torch.stack(torch._foreach_norm(tensors)) for tensors in (scaled, slopes))
            rate = group["eta"] * size / (slope + decay * size) / max(group["lr"], 1e-30)
            rate = torch.where((size > 0) & (slope > 0), rate.clamp(max=1.0), torch.ones_like(rate))
            decayed = torch._foreach_add(slopes, scaled, alpha=decay)
            torch._foreach_mul_(decayed, list(rate.unbind()))
            found = iter(decayed)
            gradients = [next(found) if weight.ndim > 1 else weight.grad for weight in weights]
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        if group["nesterov"]:
            velocities = torch._foreach_add(gradients, velocities, alpha=group["momentum"])
        torch._foreach_add_(weights, velocities, alpha=-group["lr"])

    def _update(self, weight: torch.Tensor, group: dict) -> None:
        gradient = weight.grad
        if weight.ndim > 1:
            decay = group["weight_decay"]
            size, slope = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
            rate = group["eta"] * size / (slope + decay * size) / max(group["lr"], 1e-30)
            usable = (size > 0) & (slope > 0)
            rate = torch.where(usable, rate.clamp(max=1.0), torch.ones_like(rate))
            gradient = gradient.add(weight, alpha=decay).mul_(rate)
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(velocity, alpha=group["momentum"]) if group["nesterov"] else velocity
        weight.sub_(direction, alpha=group["lr"])


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

    `momentum` is the first beta of AdamW; `nesterov` concerns sgd and lars, and is dropped where the
    momentum is 0. Raises InputError for an unknown name.
    """
    known(name, "optimiser", NAMES)
    tensors = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    fused = bool(trained) and trained[0].is_cuda
    if name == "adamw":
        betas = (momentum, 0.999)
        return AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
    settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    settings["nesterov"] = nesterov and momentum > 0
    if name == "lars":
        return LARS(trained, **settings)
    return SGD(trained, **settings, fused=fused)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float, weight_decay: float | None = None) -> None:
    """Give every parameter group the rate `lr` and, unless it is None, the `weight_decay`."""
    for group in optimiser.param_groups:
        group["lr"] = lr
        if weight_decay is not None:
            group["weight_decay"] = weight_decay
