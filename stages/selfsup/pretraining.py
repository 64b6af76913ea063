"""Pretraining an encoder: settings, one epoch, and the run around them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.core.cli import strict
from stages.core.errors import InputError
from stages.core.seeding import stream_seed
from stages.data.augment import Recipe, apply_draws, draw
from stages.data.resident import ResidentSet, normalise
from stages.machine import Machine
from stages.selfsup.objective import Objective
from stages.training.engine.checkpoint import Checkpoint
from stages.training.engine.loop import run_epochs
from stages.training.engine.optimisers import build_optimiser, set_learning_rate
from stages.training.engine.schedules import learning_rate
from stages.training.watch import COLLAPSED, effective_rank, knn_accuracy


@dataclass(frozen=True)
class Training:
    """The section `pretrain`: how any objective is trained. An objective's section may override a key."""

    epochs: int
    batch_size: int  # source images; a step forwards two views of each
    optimiser: Literal["sgd", "adamw", "lars"]
    lr: float  # at the top of the schedule
    momentum: float
    weight_decay: float
    schedule: Literal["constant", "cosine", "one_cycle"]  # after a linear warm-up; cosine falls to 0
    warmup_epochs: int
    clip: float  # length that the gradient is cut to; 0 = as it is
    accumulate: int  # batches whose gradients are averaged for one step
    save_every: int  # epochs between checkpoints
    knn_every: int  # epochs between kNN accuracies on ID validation; 0 = never

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"pretrain.{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size < 2:
            raise InputError("pretrain.batch_size is 1; batch statistics need at least 2 images")
        if not 0 <= self.warmup_epochs <= self.epochs or self.knn_every < 0:
            raise InputError("pretrain: warmup_epochs must lie in 0 to epochs, and knn_every be at least 0")
        if not self.clip >= 0:
            raise InputError(f"pretrain.clip is {self.clip}; use a length above 0, or 0 for no clipping")


def settings_of(
    shared: Mapping[str, Any], section: Mapping[str, Any], kind: type, where: str
) -> tuple[Training, Any]:
    """Return (training, constants): keys of `section` that Training knows override `shared`."""
    names = {field.name for field in fields(Training)}
    overrides = {key: value for key, value in section.items() if key in names}
    own = {key: value for key, value in section.items() if key not in names}
    return strict(Training, {**shared, **overrides}, where), strict(kind, own, where)


def recipes_of(section: Mapping[str, Any], where: str) -> tuple[Recipe, Recipe]:
    """Return the recipes of the two views; the key `second` holds what differs in the second one."""
    first = {key: value for key, value in section.items() if key != "second"}
    second = section.get("second", {})
    if not isinstance(second, Mapping):
        raise InputError(f"{where}.second: must hold keys and values, found {second!r}")
    return strict(Recipe, first, where), strict(Recipe, {**first, **second}, f"{where}.second")


class Pretraining:
    """One run: encoder, objective and data on a device, and what an epoch does with them."""

    def __init__(
        self,
        label: str,
        backbone: nn.Module,
        objective: Objective,
        training: Training,
        recipes: Sequence[Recipe],
        data: ResidentSet,
        validation: ResidentSet,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        machine: Machine,
    ):
        self.label, self.training, self.recipes = label, training, recipes[: objective.views]
        self.data, self.validation, self.seed, self.machine = data, validation, seed, machine
        self.images = training.batch_size * training.accumulate  # of a step
        self.steps = data.steps(self.images) if objective.trains else 0
        # channels last: what tensor cores read, and a quarter faster for the ResNets on a CPU too
        self.backbone = backbone.to(machine.device, memory_format=torch.channels_last)
        self.objective = objective.to(machine.device, memory_format=torch.channels_last)
        self.mean = torch.tensor(mean, device=machine.device)
        self.std = torch.tensor(std, device=machine.device)
        self.modules = nn.ModuleList((self.backbone, self.objective))
        self._view: Callable = self._augmented
        self._loss: Callable = self.objective.forward
        if machine.compile:
            self._view, self._loss = torch.compile(self._view), torch.compile(self._loss)

    def run(self, checkpoint: Checkpoint | None) -> list[dict[str, float]]:
        """Train, and return one row of curves per epoch; a single row for an objective without training."""
        if not self.objective.trains:
            curves = [{"knn": self._knn()} if self.training.knn_every else {}]
        else:
            self.optimiser = build_optimiser(
                self.training.optimiser,
                self.modules,
                lr=self.training.lr,
                weight_decay=self.training.weight_decay,
                momentum=self.training.momentum,
                nesterov=False,
            )
            curves = run_epochs(
                self.label,
                epochs=self.training.epochs,
                epoch_step=self._epoch,
                state={"networks": self.modules, "optimiser": self.optimiser},
                checkpoint=checkpoint,
                save_every=self.training.save_every,
                items=self.steps * self.images,
            )
        curves[-1]["effective_rank"] = effective_rank(self.features(self.data))
        return curves

    def _epoch(self, epoch: int, bar) -> dict[str, float]:
        """Run an epoch's steps; losses add up on the device and are read once, at its end."""
        self.modules.train()
        own = torch.Generator(self.data.device).manual_seed(stream_seed(self.seed, "objective", epoch))
        self.objective.before_epoch(epoch, own)
        generator = torch.Generator(self.data.device).manual_seed(stream_seed(self.seed, "augment", epoch))
        totals: dict[str, Tensor] = {}
        batches = self.data.epoch_batches(self.seed, epoch, self.images)
        for step, index in enumerate(batches, epoch * self.steps):
            for name, value in self._step(step, index, generator).items():
                totals[name] = totals[name] + value if name in totals else value
            bar.update(len(index))
        values = (torch.stack(list(totals.values())) / self.steps).tolist()
        rate = self._rate((epoch + 1) * self.steps - 1)
        row = {"lr": rate, **dict(zip(totals, values, strict=True))}
        if row["spread"] < COLLAPSED:
            raise InputError(
                f"{self.label}: collapse, the spread of the embeddings fell to {row['spread']:.1e} in epoch "
                f"{epoch + 1}; lower the learning rate, or use a larger batch or stronger augmentation"
            )
        if self.training.knn_every and (epoch + 1) % self.training.knn_every == 0:
            row["knn"] = self._knn()
        return row

    def _step(self, step: int, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """One update; returns loss and terms as tensors, so that nothing waits for the device."""
        set_learning_rate(self.optimiser, self._rate(step))
        self.optimiser.zero_grad()
        parts = [self._backward(part, generator) for part in index.split(self.training.batch_size)]
        if self.training.clip:
            nn.utils.clip_grad_norm_(self.modules.parameters(), self.training.clip)
        self.optimiser.step()
        self.objective.after_step(self.backbone, step, self.steps * self.training.epochs)
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def _backward(self, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Add the gradient of one batch, its share of the step; returns loss and terms."""
        images, labels = self.data.images[index], self.data.labels[index]
        views = [self._view(images, draw(len(images), generator), recipe) for recipe in self.recipes]
        with self.machine.autocast():
            loss, terms = self._loss(self.backbone, views, labels)
        (loss / self.training.accumulate).backward()
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _augmented(self, images: Tensor, draws: Tensor, recipe: Recipe) -> Tensor:
        view = normalise(apply_draws(images, draws, recipe), self.mean, self.std)
        return view.contiguous(memory_format=torch.channels_last)

    def _rate(self, step: int) -> float:
        t = self.training
        return learning_rate(
            t.schedule, step, self.steps * t.epochs, base=t.lr, warmup=self.steps * t.warmup_epochs
        )

    @torch.inference_mode()
    def features(self, data: ResidentSet, batch_size: int = 512) -> Tensor:
        """Return the representations [N, D] of a set, unaugmented, in evaluation mode."""
        self.modules.eval()
        parts = []
        for images in data.images.split(batch_size):
            with self.machine.autocast():
                features = self.backbone(normalise(images, self.mean, self.std))
                parts.append(self.objective.representation(features).float())
        return torch.cat(parts)

    def _knn(self) -> float:
        bank, queries = self.features(self.data), self.features(self.validation)
        return knn_accuracy(bank, self.data.labels, queries, self.validation.labels)
