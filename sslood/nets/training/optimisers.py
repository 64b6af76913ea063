"""Optimisers by name: SGD and AdamW of torch, LARS without a host synchronisation, and Muon for kernels."""

from collections.abc import Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from sslood.core.errors import known

NAMES = ("sgd", "adamw", "lars", "muon")
BETAS = (0.9, 0.95)  # of AdamW beside Muon
NOTHING = 1e-12  # of a matrix's norm; a unit that is dead has a momentum that falls below every normal number


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


class Muon(_WithoutCompiler):
    """Momentum whose update has all singular values near 1, for matrices and kernels; AdamW for the rest.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; a kernel is the matrix
    [outputs, inputs k k]. The update is scaled to the root mean square of AdamW's, 0.2, so that both share
    one rate and one decoupled decay (Liu et al. 2025, "Muon is scalable for LLM training", arXiv:2502.16982,
    section 2.2). AdamW's betas are 0.9 and 0.95; vectors (biases, normalisation) are not decayed.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
    ):
        settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(parameters, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    (self._turn if weight.ndim > 1 else self._adapt)(weight, weight.grad, group)

    def _turn(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        velocity = self._kept(weight, "momentum_buffer")
        velocity.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(velocity, group["momentum"]) if group["nesterov"] else velocity
        matrix = ahead.flatten(1)
        scale = 0.2 * max(matrix.shape) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonalised(matrix).view(weight.shape), alpha=-group["lr"] * scale)

    def _adapt(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        mean, square = self._kept(weight, "exp_avg"), self._kept(weight, "exp_avg_sq")
        step = self.state[weight]["step"] = self.state[weight].get("step", 0) + 1
        mean.lerp_(gradient, 1 - BETAS[0])
        square.lerp_(gradient.square(), 1 - BETAS[1])
        spread = (square / (1 - BETAS[1] ** step)).sqrt_().add_(1e-8)
        weight.addcdiv_(mean, spread, value=-group["lr"] / (1 - BETAS[0] ** step))

    def _kept(self, weight: Tensor, name: str) -> Tensor:
        """Return what is kept of a parameter under `name`, zeros at first."""
        if name not in self.state[weight]:
            self.state[weight][name] = torch.zeros_like(weight)
        return self.state[weight][name]


def orthogonalised(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Return U f(S) V' of a matrix U S V' [M, N], the values f(S) from 0.7 to 1.2 unless S is tiny.

    Newton and Schulz's iteration with the quintic polynomial of Muon: p(s) = 3.4445 s - 4.775 s^3 + 2.0315
    s^5, `rounds` times, after division by the Frobenius norm. Entries below 1e-12 of the norm count as 0: in
    float32 they change no other, and a CPU multiplies subnormal numbers many times more slowly.
    """
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    x = x.masked_fill(x.abs() < NOTHING, 0)
    for _ in range(rounds):
        gram = x @ x.T
        x = torch.addmm(3.4445 * x, torch.addmm(-4.775 * gram, gram, gram, alpha=2.0315), x)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


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

    `momentum` is the first beta of AdamW; `nesterov` concerns sgd, lars and muon, and is ignored without
    momentum. Raises InputError for an unknown name.
    """
    known(name, "optimiser", NAMES)
    tensors = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    if name == "adamw":
        betas, fused = (momentum, 0.999), bool(trained) and trained[0].is_cuda
        return AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
    nesterov = nesterov and momentum > 0
    if name in ("lars", "muon"):
        kind = LARS if name == "lars" else Muon
        return kind(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    # not fused: that kernel refuses a weight that gets its first gradient later than the others
    return SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the rate `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr
