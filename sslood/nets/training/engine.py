"""The training engine: what all trainings do alike. A task says what one batch costs; the rest is here.

A step: the rate of the schedule, `accumulate` batches forwards and backwards, the gradients of all processes
added up, clipped, and the optimiser's update. An epoch: shuffled batches, the means of all terms, a check of
every step for values that are not finite or show a collapse. A run: epochs with resume, progress and curves.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.core.machine import Machine
from sslood.core.precision import Precision, autocast, dtype_of
from sslood.core.rounding import on_grid
from sslood.data.images.resident import ResidentSet
from sslood.data.images.streamed import StreamedSet
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.compiling import Compiled, Trained
from sslood.nets.training.loop import run_epochs, seed_layers
from sslood.nets.training.optimisers import build_optimiser, set_learning_rate
from sslood.nets.training.ranks import average, join_batch_norm, rank, ranks, share, sum_gradients
from sslood.nets.training.settings import TrainingSettings
from sslood.nets.training.watch import check_steps

ImageData = ResidentSet | StreamedSet
Batch = TypeVar("Batch")
M = TypeVar("M", bound=nn.Module)


def place(module: M, device: torch.device, precision: Precision) -> M:
    """Move a module to the device and dtype that it is trained in, batch norm joined over all processes."""
    # channels last: what tensor cores read, and a quarter faster for the ResNets on a CPU too
    module.to(device, dtype_of(precision)).to(memory_format=torch.channels_last)
    return join_batch_norm(module)


class Task(ABC, Generic[Batch]):
    """What is trained: networks, the images of an epoch, and the loss of a batch.

    `modules` holds all parameters and buffers, placed on the machine's device; it is what a checkpoint saves.
    All randomness of an epoch must follow from its number: then a resumed run equals an uninterrupted one.
    """

    label: str  # of the run, in messages
    settings: TrainingSettings
    seed: int
    machine: Machine
    modules: nn.Module
    data: ImageData  # the images whose batches make up an epoch

    @abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Set training modes and restart the random streams of epoch `epoch`, from 0."""

    @abstractmethod
    def batches(self, indices: Iterator[Tensor]) -> Iterator[Batch]:
        """Yield what `step` takes for each index tensor [B], on the device."""

    @abstractmethod
    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, terms to be recorded), scalars; of several processes, a mean over this one's rows."""

    def after_step(self, step: int, steps: int) -> None:
        """Update what gradients do not after step `step` of `steps`."""

    def watch(self, epoch: int) -> dict[str, float]:
        """Return what is measured after epoch `epoch`, from 0."""
        return {}


class Engine(Generic[Batch]):
    """One run of a task. `train` is the door; `step` is one update, for tests and benchmarks.

    Raises InputError if batches, processes and the set do not fit each other.
    """

    memory: ClassVar[str] = "use a smaller batch_size, and a larger `accumulate` to keep the images of a step"

    def __init__(self, task: Task[Batch]):
        self.task, self.label, self.seed = task, task.label, task.seed
        self.settings = settings = self._fitting()
        self.device, self.precision = task.machine.device, settings.precision
        self.images = settings.batch_size * settings.accumulate  # per step, over all processes
        self._check()
        self.steps = task.data.steps(self.images)  # per epoch
        self.trained = Trained(task.modules) if task.machine.compile else None
        self.optimiser = build_optimiser(
            settings.optimiser,
            task.modules,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
        )

    def _fitting(self) -> TrainingSettings:
        """Return the settings with a batch that the set can fill: at most all of its images."""
        settings, images = self.task.settings, len(self.task.data) // ranks() * ranks()
        if settings.accumulate > 1 or not 0 < images < settings.batch_size:
            return settings
        if rank() == 0:
            tqdm.write(f"{self.label}: batch_size is {settings.batch_size}, but the set fills only {images}")
        return replace(settings, batch_size=images)

    def _check(self) -> None:
        batch, parts, images = self.settings.batch_size, self.settings.accumulate, len(self.task.data)
        if ranks() > 1 and (batch % ranks() or batch < 2 * ranks()):
            raise InputError(
                f"{self.label}: batch_size is {batch}, which {ranks()} processes cannot share equally; "
                f"use a multiple of {ranks()}, at least {2 * ranks()}"
            )
        if parts > 1 and self.images > images:
            raise InputError(
                f"{self.label}: batch_size {batch} times accumulate {parts} is {self.images}, but the set "
                f"has {images} images; lower one of them"
            )

    def train(self, checkpoint: Checkpoint | None) -> list[dict[str, float]]:
        """Train the task's modules in place; return one row of curves per epoch.

        In float64 the final weights are rounded, so that they are the same on every processor.
        """
        curves = run_epochs(
            self.label,
            epochs=self.settings.epochs,
            epoch_step=self._epoch,
            state={"networks": self.task.modules, "optimiser": self.optimiser},
            checkpoint=checkpoint,
            save_every=self.settings.save_every,
            items=self.steps * self.images,
            memory=self.memory,
            silent=rank() > 0,
        )
        if self.precision == "float64":
            round_weights(self.task.modules)
        return curves

    def _epoch(self, epoch: int, bar: tqdm) -> dict[str, float]:
        """Run an epoch's steps; their losses stay on the device and are read once, at its end."""
        seed_layers(self.seed, epoch, self.device)
        self.task.begin_epoch(epoch)
        if self.trained:
            self.trained.watch()
        batches = self.task.batches(self.indices(epoch))
        first, rows, names = epoch * self.steps, [], []
        for step in range(first, first + self.steps):
            terms = self.step(step, batches)
            names = list(terms)
            rows.append(torch.stack(list(terms.values())))
            bar.update(self.images)
        values = average(torch.stack(rows)).cpu()
        check_steps(self.label, epoch, names, values, first)
        means = dict(zip(names, values.mean(0).tolist(), strict=True))
        return {"lr": self.settings.rate(step, self.steps), **means, **self.task.watch(epoch)}

    def indices(self, epoch: int) -> Iterator[Tensor]:
        """Yield the indices of the epoch's batches, of each the part of this process."""
        for index in self.task.data.epoch_batches(self.seed, epoch, self.images):
            yield from map(share, index.split(self.settings.batch_size))

    def step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One update; returns loss and terms as tensors, so that nothing waits for the device."""
        set_learning_rate(self.optimiser, self.settings.rate(step, self.steps))
        self.optimiser.zero_grad()
        parts = [self._backward(next(batches)) for _ in range(self.settings.accumulate)]
        sum_gradients(self.task.modules.parameters())
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.task.modules.parameters(), self.settings.clip)
        self.optimiser.step()
        self.task.after_step(step, self.steps * self.settings.epochs)
        return parts[0] if len(parts) == 1 else _means(parts)

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradient of one batch, its share of the step; returns loss and terms."""
        with autocast(self.device, self.precision):
            loss, terms = self.task.step(batch)
        (loss / (self.settings.accumulate * ranks())).backward()
        return {name: term.detach().to(loss.dtype) for name, term in {"loss": loss, **terms}.items()}


@torch.no_grad()
def round_weights(modules: nn.Module) -> None:
    """Round all parameters and buffers to 18 binary digits of the largest of their tensor (see `on_grid`)."""
    for tensor in (*modules.parameters(), *modules.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(np.asarray(on_grid(tensor.cpu().numpy()))))


def _means(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def compiled(function: Callable[..., Any], name: str, machine: Machine) -> Callable[..., Any]:
    """Return `function` for a step, compiled where the machine says so; messages call it `name`.

    Of several processes no step is compiled: what they exchange is no part of a graph.
    """
    return Compiled(function, name) if machine.compile and ranks() == 1 else function
