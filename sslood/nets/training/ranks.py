"""Several processes as one (torchrun): what they exchange so that together they compute what one would.

Every process holds the whole model and equal rows of each batch, in the order of the ranks. The scalar that
is differentiated is the sum over the ranks of (their loss / number of ranks): for a loss that is a mean over
images, and for one that every rank computes alike from gathered embeddings, this is the loss of the whole
batch. Collectives differentiate as the linear maps that they are, and `sum_gradients` adds up the rest.
Without torchrun (see `launcher`) there is one rank, and nothing here costs anything.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.core.machine import Machine

M = TypeVar("M", bound=nn.Module)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ranks() -> int:
    """Return the number of processes that work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; process 0 writes the files."""
    return dist.get_rank() if ranks() > 1 else 0


@contextmanager
def session(machine: Machine) -> Iterator[Machine]:
    """Join the processes that torchrun started, and yield this one's machine: each CUDA rank its own card.

    Without torchrun the machine is yielded as it is. InputError if there are fewer cards than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield machine
        return
    if sys.platform == "linux":  # a killed launcher would leave this process running beside the next run
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if machine.device.type == "cuda":
        machine = replace(machine, device=_own_card(machine.device))
        torch.cuda.set_device(machine.device)
    dist.init_process_group("nccl" if machine.device.type == "cuda" else "gloo")
    yield machine
    # not after an error: NCCL would wait here for processes that wait for this one, and none would report
    dist.destroy_process_group()


def _own_card(requested: torch.device) -> torch.device:
    own, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if requested.index is not None:
        raise InputError(
            f"SSLOOD_DEVICE asks for {requested}, but each of several processes takes a card of its own; set "
            "it to cuda, and choose the cards by CUDA_VISIBLE_DEVICES"
        )
    if own >= count:
        processes = os.environ.get("LOCAL_WORLD_SIZE", str(own + 1))
        raise InputError(
            f"{processes} processes on this machine, but torch sees {count} CUDA device(s); start as many"
        )
    return torch.device("cuda", own)


def share(rows: Tensor, dim: int = 0) -> Tensor:
    """Return this rank's part of rows that all ranks have, cut along `dim` (a multiple of the ranks)."""
    return rows.chunk(ranks(), dim)[rank()] if ranks() > 1 else rows


def gather(rows: Tensor, dim: int = 0) -> Tensor:
    """Return the rows of all ranks, [N, …] of [N / ranks, …] each, along `dim`, differentiably."""
    if ranks() == 1:
        return rows
    return _Gather.apply(rows.movedim(dim, 0).contiguous()).movedim(0, dim)


def average(x: Tensor) -> Tensor:
    """Return the mean over the ranks of a tensor of equal shape, differentiably."""
    return _Sum.apply(x) / ranks() if ranks() > 1 else x


def from_first(make: Callable[[], Any]) -> Any:
    """Return on every rank what `make()` returns on rank 0, where alone it is called."""
    box = [make() if rank() == 0 else None]
    if ranks() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def _total(x: Tensor) -> Tensor:
    total = x.contiguous().clone()
    dist.all_reduce(total)
    return total


# torch.distributed.nn has both of these, but warns since torch 2.14 that it will be removed


class _Sum(torch.autograd.Function):
    """The sum over the ranks; every rank depends on every input, so the gradients are summed too."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return _total(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _total(gradient)


class _Gather(torch.autograd.Function):
    """The rows of all ranks; backwards, the sum over the ranks of the gradients of one's own rows."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(ranks())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return share(_total(gradient))


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all ranks in place, all weights in one exchange."""
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    if ranks() == 1 or not gradients:
        return
    total = _total(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


class JoinedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of all ranks' rows, on any device; keys and defaults are torch's."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Takes [N, C] and [N, C, …]."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        shape = (1, -1, *[1] * (x.ndim - 2))
        dims = [dim for dim in range(x.ndim) if dim != 1]
        wide = x if x.dtype == torch.float64 else x.float()
        mean = average(wide.mean(dims))
        centred = wide - mean.view(shape)
        variance = average(centred.square().mean(dims))
        self._follow(mean.detach(), variance.detach(), ranks() * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, of which the variance is the unbiased one."""
        means, variances, batches = self.running_mean, self.running_var, self.num_batches_tracked
        assert means is not None and variances is not None and batches is not None
        batches.add_(1)
        means.lerp_(mean.to(means.dtype), self.momentum or 0.0)
        variances.lerp_((variance * (count / (count - 1))).to(variances.dtype), self.momentum or 0.0)


def join_batch_norm(module: M) -> M:
    """Return `module`, in which every batch norm takes the statistics of all ranks; weights are kept.

    On CUDA that is torch's SyncBatchNorm, which supports no CPU.
    """
    if ranks() == 1:
        return module
    if next(module.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, _joined(child))
    return module


def _joined(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> JoinedBatchNorm:
    joined = JoinedBatchNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    joined.weight, joined.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers(recurse=False):
        joined.register_buffer(name, buffer)
    return joined.train(norm.training)
