"""Several processes as one (torchrun): what they exchange so that together they compute what one would.

Every process holds the whole model and equal rows of each batch, in the order of the ranks. The scalar that
is differentiated is the sum over the ranks of (their loss / number of ranks): for a loss that is a mean over
images, and for one that every rank computes alike from `gathered` embeddings, this is the loss of the whole
batch. Collectives differentiate as the linear maps that they are, and `sum_gradients` adds up the rest.
Without torchrun there is one rank, and nothing here costs anything.

SSLOOD_PROCESSES  so many processes on this machine, started by torchrun (default: 1, without it)
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.core.machine import Machine

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ranks() -> int:
    """Return the number of processes that work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; the process 0 writes the files."""
    return dist.get_rank() if ranks() > 1 else 0


def start_processes(module: str) -> None:
    """Replace this process by torchrun with the same command, where SSLOOD_PROCESSES asks for several.

    InputError if the variable holds no number.
    """
    text = os.environ.get("SSLOOD_PROCESSES", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"environment variable SSLOOD_PROCESSES is {text!r}; use a number of at least 1")
    if int(text) > 1 and "WORLD_SIZE" not in os.environ:
        torchrun = ["-m", __name__, "--standalone", f"--nproc_per_node={text}", "-m", module]
        os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv[1:]])


def launch() -> int:
    """Run torchrun with the words of this process, and return its exit status.

    Its own report, a traceback of some forty lines, is left out (not with SSLOOD_DEBUG=1): the process that
    failed has said why in a sentence. What ended one from outside is said here.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if os.environ.get("SSLOOD_DEBUG") == "1":
        return torchrun.main() or 0
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    again = "run the same command again to go on"
    try:
        torchrun.run(torchrun.parse_args(sys.argv[1:]))
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(f"Error: process {number} of the run was ended by {name}; {again}", file=sys.stderr)
        return 128 - failure.exitcode
    except SignalException as stop:
        how = "interrupted" if stop.sigval == signal.SIGINT else f"stopped by {stop.sigval.name}"
        print(f"Error: {how}; {again}", file=sys.stderr)
        return 128 + stop.sigval
    return 0


@contextmanager
def session(machine: Machine) -> Iterator[Machine]:
    """Join the processes that torchrun started, and yield this one's machine: each CUDA rank its own card.

    Without torchrun the machine is yielded as it is. InputError if there are fewer cards than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield machine
        return
    _end_with_launcher()
    if machine.device.type == "cuda":
        machine = replace(machine, device=_own_card(machine.device))
        torch.cuda.set_device(machine.device)
    dist.init_process_group("nccl" if machine.device.type == "cuda" else "gloo")
    yield machine
    # not after an error: NCCL would wait here for processes that wait for this one, and nobody would speak
    dist.destroy_process_group()


def _end_with_launcher() -> None:
    """Have Linux end this process when its launcher is killed, which else would go on beside the next run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _own_card(asked: torch.device) -> torch.device:
    own, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if asked.index is not None:
        raise InputError(
            f"SSLOOD_DEVICE asks for {asked}, but each of several processes takes a card of its own; set it "
            "to cuda, and choose the cards by CUDA_VISIBLE_DEVICES"
        )
    if own >= count:
        processes = os.environ.get("LOCAL_WORLD_SIZE", str(own + 1))
        raise InputError(
            f"{processes} processes on this machine, but torch sees {count} CUDA device(s); start as many"
        )
    return torch.device("cuda", own)


def share(rows: Tensor, dim: int = 0) -> Tensor:
    """Return this rank's part of what all ranks have alike, cut along `dim` (a multiple of the ranks)."""
    return rows.chunk(ranks(), dim)[rank()] if ranks() > 1 else rows


def gathered(rows: Tensor, dim: int = 0) -> Tensor:
    """Return the rows of all ranks, [N, …] of [N / ranks, …] each, along `dim`; gradients find their way."""
    if ranks() == 1:
        return rows
    return _Gather.apply(rows.movedim(dim, 0).contiguous()).movedim(0, dim)


def averaged(x: Tensor) -> Tensor:
    """Return the mean over the ranks of a tensor of equal shape, with its gradient."""
    return _Sum.apply(x) / ranks() if ranks() > 1 else x


def from_first(make: Any) -> Any:
    """Return what `make()` returns on rank 0, where alone it is called."""
    box = [make() if rank() == 0 else None]
    if ranks() > 1:
        dist.broadcast_object_list(box)
    return box[0]


class _Sum(torch.autograd.Function):
    """The sum over the ranks; every rank depends on every input, so the gradients are summed too."""

    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    """The rows of all ranks; back come the sums over the ranks of the gradients of one's own rows."""

    @staticmethod
    def forward(context, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(ranks())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return share(total)


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all ranks in place, all weights in one exchange."""
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    if ranks() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view(gradient.shape))


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
        mean = averaged(wide.mean(dims))
        centred = wide - mean.view(shape)
        variance = averaged(centred.square().mean(dims))
        self._follow(mean.detach(), variance.detach(), ranks() * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, of which the variance is the unbiased one."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


def join_batch_norm(module: nn.Module) -> nn.Module:
    """Return `module` with every batch norm taking the statistics of all ranks; weights are kept.

    On CUDA it is torch's SyncBatchNorm, which knows no other device.
    """
    if ranks() == 1:
        return module
    if next(module.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        setattr(module, name, join_batch_norm(child) if _has_weights(child) else child)
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return module
    joined = JoinedBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
    joined.weight, joined.bias = module.weight, module.bias
    for name, buffer in module.named_buffers(recurse=False):
        joined.register_buffer(name, buffer)
    return joined.train(module.training)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


if __name__ == "__main__":
    sys.exit(launch())
