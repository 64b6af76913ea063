"""Classifiers trained side by side in one process, each exactly as it would be alone.

Every member keeps its weights, optimiser, batches and random streams. In turns, its steps are those of a
training of its own. Stacked, the backbones of all members pass through the network at once, each layer with
the weights of all as one grouped kernel: the same sums in another order.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.core.precision import at_least_float32, autocast
from sslood.nets.methods.leaveout import Watched
from sslood.nets.methods.supervised import Batch
from sslood.nets.networks.model import Model
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.engine import Engine
from sslood.nets.training.loop import Stateful, run_epochs, seed_layers
from sslood.nets.training.optimisers import set_learning_rate
from sslood.nets.training.watch import check_steps

How = Literal["0", "turns", "stacked"]
Logits = list[Tensor]
KINDS: tuple[How, ...] = ("0", "turns", "stacked")


def how_together() -> How:
    """Return what SSLOOD_TOGETHER asks for, "0" by default; InputError for anything unknown."""
    text = os.environ.get("SSLOOD_TOGETHER", "0")
    for kind in KINDS:
        if kind == text:
            return kind
    raise InputError(
        f"environment variable SSLOOD_TOGETHER is {text!r}; use 0 (each member alone), turns, or stacked"
    )


def draws(network: nn.Module) -> bool:
    """Whether layers draw random numbers in training, which stacked members would draw otherwise."""
    return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in network.modules())


class Stack:
    """Backbones of one architecture as one function of the images of each.

    Parameters keep their place in the members' models: gradients reach them through the stacking, and batch
    norm's statistics are written back after each pass.
    """

    def __init__(self, template: nn.Module):
        self._template = deepcopy(template).to("meta").train()

    def __call__(self, models: Sequence[Model], images: Sequence[Tensor]) -> Logits:
        """Return the logits [B, K] of each model for its own images [B, C, H, W], equally many each."""
        parts = [dict(model.backbone.named_parameters()) for model in models]
        buffers = [dict(model.backbone.named_buffers()) for model in models]
        weights = {name: _stacked([part[name] for part in parts]) for name in parts[0]}
        state = {name: _stacked([own[name] for own in buffers]) for name in buffers[0]}
        features = vmap(self._features)(weights, state, _stacked(images))
        with torch.no_grad():
            for name, values in state.items():
                for own, value in zip(buffers, values, strict=True):
                    own[name].copy_(value)
        return [model.need_head()(own) for model, own in zip(models, features, strict=True)]

    def _features(self, weights: dict[str, Tensor], state: dict[str, Tensor], images: Tensor) -> Tensor:
        found: Tensor = functional_call(self._template, (weights, state), (images,))
        return found


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return [M, ...], on a card in torch's usual layout: vmap cannot ask for another, as cuDNN does."""
    stacked = torch.stack(list(tensors))
    return stacked.clone(memory_format=torch.contiguous_format) if stacked.is_cuda else stacked


class _Course:
    """A member's way through an epoch: its batches, the generators of its layers, and what it recorded."""

    def __init__(self, task: Watched, engine: Engine[Batch], epoch: int):
        seed_layers(engine.seed, epoch, engine.device)
        task.begin_epoch(epoch)
        if engine.trained:
            engine.trained.watch()
        self.task, self.engine, self.epoch, self.first = task, engine, epoch, epoch * engine.steps
        self.batches: Iterator[Batch] = task.batches(engine.indices(epoch))
        self.rows: list[Tensor] = []
        self.names: list[str] = []
        self._generators = _generators(engine.device)

    def record(self, terms: Mapping[str, Tensor]) -> None:
        self.names = list(terms)
        self.rows.append(torch.stack(list(terms.values())))

    def alone(self, place: int) -> None:
        """Take step `place` of the epoch, with the numbers that its own process would draw."""
        _restore(self.engine.device, self._generators)
        self.record(self.engine.step(self.first + place, self.batches))
        self._generators = _generators(self.engine.device)

    def finish(self) -> dict[str, float]:
        """Return the member's row of curves, as `Engine` makes it."""
        values = torch.stack(self.rows).cpu()
        check_steps(self.engine.label, self.epoch, self.names, values, self.first)
        means = dict(zip(self.names, values.mean(0).tolist(), strict=True))
        rate = self.engine.settings.rate(self.first + self.engine.steps - 1, self.engine.steps)
        return {"lr": rate, **means, **self.task.watch(self.epoch)}


def _generators(device: torch.device) -> list[Tensor]:
    own = [torch.get_rng_state()]
    return [*own, torch.cuda.get_rng_state(device)] if device.type == "cuda" else own


def _restore(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


class Together:
    """The trainings of several members, as many epochs each; `train` is the door.

    tasks: the members by name, of one backbone's architecture and one section of settings. stacked: all at
    once, else one step of each in turn; layers that draw random numbers make it turns too. InputError as of
    `Engine`.
    """

    def __init__(self, label: str, tasks: Mapping[str, Watched], *, stacked: bool):
        self.label, self.tasks = label, tasks
        self.engines = {name: Engine(task) for name, task in tasks.items()}
        first = next(iter(tasks.values()))
        self.settings, self.machine = first.settings, first.machine
        self.stacked = stacked and not draws(first.model.backbone)
        self._logits = Stack(first.model.backbone)

    def train(self, checkpoint: Checkpoint, finished: Mapping[str, Checkpoint]) -> None:
        """Train the members in place, and write what each one's own training saves after its last epoch.

        `checkpoint`: of all together, to resume from. `finished`: of each member; a training of its own goes
        on from there, with no epoch left.
        """
        parts: dict[str, dict[str, Stateful]] = {
            name: {"networks": self.tasks[name].modules, "optimiser": engine.optimiser}
            for name, engine in self.engines.items()
        }
        state = {f"{name}.{part}": held for name, own in parts.items() for part, held in own.items()}
        curves = run_epochs(
            self.label,
            epochs=self.settings.epochs,
            epoch_step=self._epoch,
            state=state,
            checkpoint=checkpoint,
            save_every=self.settings.save_every,
            items=sum(engine.steps * engine.images for engine in self.engines.values()),
            memory=f"{Engine.memory}, or train each member alone (SSLOOD_TOGETHER=0)",
        )
        for name, own in parts.items():
            rows = [{key.removeprefix(f"{name} "): value for key, value in row.items()
                     if key.startswith(f"{name} ")} for row in curves]  # fmt: skip
            saved = {part: held.state_dict() for part, held in own.items()}
            finished[name].save({"parts": saved, "curves": rows})
        checkpoint.delete()

    def _epoch(self, epoch: int, bar: tqdm) -> dict[str, float]:
        courses = {name: _Course(self.tasks[name], one, epoch) for name, one in self.engines.items()}
        for place in range(max(engine.steps for engine in self.engines.values())):
            active = [course for course in courses.values() if place < course.engine.steps]
            if self.stacked:
                self._step(active, place)
            else:
                for course in active:
                    course.alone(place)
            bar.update(sum(course.engine.images for course in active))
        rows = {name: course.finish() for name, course in courses.items()}
        return {f"{name} {key}": value for name, row in rows.items() for key, value in row.items()}

    def _step(self, courses: Sequence[_Course], place: int) -> None:
        """One update of each, from one pass of all: what `Engine.step` does."""
        for course in courses:
            engine = course.engine
            set_learning_rate(engine.optimiser, engine.settings.rate(course.first + place, engine.steps))
            engine.optimiser.zero_grad()
        parts = [self._backward(courses) for _ in range(self.settings.accumulate)]
        for course, *terms in zip(courses, *parts, strict=True):
            engine = course.engine
            if engine.settings.clip:
                nn.utils.clip_grad_norm_(course.task.modules.parameters(), engine.settings.clip)
            engine.optimiser.step()
            course.task.after_step(course.first + place, engine.steps * engine.settings.epochs)
            course.record({name: torch.stack([part[name] for part in terms]).mean() for name in terms[0]})

    def _backward(self, courses: Sequence[_Course]) -> list[dict[str, Tensor]]:
        """Add the gradients of a batch of each, their share of the step; returns loss and terms of each."""
        tasks = [course.task for course in courses]
        batches = [next(course.batches) for course in courses]
        with autocast(self.machine.device, self.settings.precision):
            logits = self._pass([task.model for task in tasks], [images for images, _ in batches])
            found = [
                task.loss(at_least_float32(own), labels)
                for task, own, (_, labels) in zip(tasks, logits, batches, strict=True)
            ]
        losses = [loss for loss, _ in found]
        (torch.stack(losses).sum() / self.settings.accumulate).backward()
        return [
            {name: term.detach().to(loss.dtype) for name, term in {"loss": loss, **terms}.items()}
            for loss, terms in found
        ]

    def _pass(self, models: Sequence[Model], images: Sequence[Tensor]) -> Logits:
        """Return the logits of each model; those whose batches are equally large are stacked."""
        found: dict[int, Tensor] = {}
        for shape in dict.fromkeys(batch.shape for batch in images):
            at = [place for place, batch in enumerate(images) if batch.shape == shape]
            own, batches = [models[place] for place in at], [images[place] for place in at]
            logits = self._logits(own, batches) if len(at) > 1 else [own[0](batches[0])]
            found |= dict(zip(at, logits, strict=True))
        return [found[place] for place in range(len(models))]
