"""Pretraining an encoder: settings, one epoch, and the run around them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.core.machine import Machine
from sslood.core.seeding import stream_seed
from sslood.core.settings import checked, strict
from sslood.data.images.augment import Recipe, apply_draws, draw
from sslood.data.images.resident import normalise
from sslood.data.images.streamed import ResidentSet, StreamedSet
from sslood.nets.selfsup.objective import Objective
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.compiling import Compiled, Trained
from sslood.nets.training.loop import run_epochs, seed_layers
from sslood.nets.training.optimisers import build_optimiser, set_learning_rate
from sslood.nets.training.ranks import averaged, join_batch_norm, rank, ranks, share, sum_gradients
from sslood.nets.training.schedules import cosine_between, learning_rate
from sslood.nets.training.watch import Best, check_steps, effective_rank, knn_accuracy, linear_accuracy

_SCHEDULES = {  # what has a default below and the schedules that read it
    "final_lr": ("cosine", "restarts"),
    "milestones": ("steps",),
    "gamma": ("steps",),
    "cycle_epochs": ("restarts",),
    "growth": ("restarts",),
}


@dataclass(frozen=True)
class Training:
    """The section `pretrain`: how any objective is trained. An objective's section may override a key."""

    epochs: int
    batch_size: int  # source images; a step forwards two views of each
    optimiser: Literal["sgd", "adamw", "lars"]
    lr: float  # at the top of the schedule
    momentum: float
    weight_decay: float
    schedule: Literal["constant", "cosine", "steps", "one_cycle", "restarts"]  # after a linear warm-up
    warmup_epochs: int
    clip: float  # length that the gradient is cut to; 0 = as it is
    accumulate: int  # batches whose gradients are averaged for one step
    save_every: int  # epochs between checkpoints
    knn_every: int  # epochs between kNN and linear accuracies on ID validation; 0 = never
    # What few runs need has a default, and stands in the objective's section alone.
    final_lr: float = 0.0  # to which cosine and restarts fall
    milestones: tuple[int, ...] = ()  # epochs at which `steps` multiplies the rate by gamma
    gamma: float = 0.1
    cycle_epochs: int = 0  # of the first cycle of `restarts`; 0 = the whole run
    growth: int = 1  # times that each cycle is longer than the last
    final_weight_decay: float = 0.0  # to which a cosine leads the weight decay; 0 = it stays as it is
    nesterov: bool = False  # of sgd
    keep: Literal["last", "best"] = "last"  # epoch that is written; best: by kNN on ID validation

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"pretrain.{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size < 2:
            raise InputError("pretrain.batch_size is 1; batch statistics need at least 2 images")
        if not 0 <= self.warmup_epochs <= self.epochs or self.knn_every < 0:
            raise InputError("pretrain: warmup_epochs must lie in 0 to epochs, and knn_every be at least 0")
        if self.cycle_epochs < 0 or self.growth < 1:
            raise InputError("pretrain: cycle_epochs must be at least 0, and growth at least 1")
        self._check_schedule()
        if self.keep == "best" and not self.knn_every:
            raise InputError("pretrain: keep: best chooses by the kNN accuracy; set knn_every above 0")
        if self.keep == "best" and self.knn_every > self.epochs:
            raise InputError(
                f"pretrain: keep: best chooses by the kNN accuracy; knn_every is {self.knn_every}, but the "
                f"run has {self.epochs} epochs: none would be judged; lower knn_every"
            )
        for name in ("lr", "weight_decay", "final_lr", "final_weight_decay", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"pretrain.{name} is {getattr(self, name)}; use a finite number of at least 0"
                )
        if not 0 <= self.momentum < 1:
            raise InputError(f"pretrain.momentum is {self.momentum}; use 0 up to below 1")
        if not self.clip >= 0:
            raise InputError(f"pretrain.clip is {self.clip}; use a length above 0, or 0 for no clipping")

    def _check_schedule(self) -> None:
        """Raise InputError where a key of one schedule stands beside another, or a milestone is never met."""
        for name, schedules in _SCHEDULES.items():
            if getattr(self, name) != getattr(Training, name) and self.schedule not in schedules:
                raise InputError(
                    f"pretrain.{name} is for the schedule {' or '.join(schedules)}, but schedule is "
                    f"{self.schedule}; take it out"
                )
        inside = all(0 < milestone < self.epochs for milestone in self.milestones)
        if self.schedule == "steps" and not (self.milestones and inside):
            raise InputError(
                f"pretrain.milestones is {list(self.milestones)}; the schedule steps needs epochs from 1 to "
                f"{self.epochs - 1}"
            )


def settings_of(
    shared: Mapping[str, Any], section: Mapping[str, Any], kind: type, where: str
) -> tuple[Training, Any]:
    """Return (training, constants): keys of `section` that Training knows override `shared`.

    Its key `augment` is left to `recipes_of`.
    InputError that says in which of the two sections to look.
    """
    names = {field.name for field in fields(Training)}
    overrides = {key: value for key, value in section.items() if key in names}
    own = {key: value for key, value in section.items() if key not in {*names, "augment"}}
    try:
        training = strict(Training, {**shared, **overrides}, "pretrain")
    except InputError as error:
        hint = f" ({where} sets {', '.join(sorted(overrides))})" if overrides else ""
        raise InputError(f"{error}{hint}") from None
    return training, checked(kind, own, where)


def recipes_of(
    section: Mapping[str, Any],
    where: str,
    own: Mapping[str, Any] | None = None,
    own_where: str = "",
    views: int = 2,
) -> tuple[Recipe, Recipe]:
    """Return the recipes of the two views; the key `second` holds what differs in the second one.

    own: the key `augment` of an objective's section, whose keys replace those of `section`; what the shared
    second view does otherwise is then forgotten.
    InputError that names the section and the key.
    """
    recipes = _both(section, where)
    if own is None:
        return recipes
    if not isinstance(own, Mapping):
        raise InputError(f"{own_where}: must hold keys and values, found {own!r}")
    if "second" in own and views == 1:
        raise InputError(f"{own_where}.second: the objective sees one view of an image; take it out")
    return _both({**section, "second": {}, **own}, own_where)


def _both(section: Mapping[str, Any], where: str) -> tuple[Recipe, Recipe]:
    first = {key: value for key, value in section.items() if key != "second"}
    second = section.get("second", {})
    if not isinstance(second, Mapping):
        raise InputError(f"{where}.second: must hold keys and values, found {second!r}")
    return checked(Recipe, first, where), checked(Recipe, {**first, **second}, f"{where}.second")


def recorded(training: Training, constants: Any, recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Return the settings that shape a result: how often to save is none of them."""
    settings = {**vars(training), "constants": vars(constants), "augment": [vars(part) for part in recipes]}
    del settings["save_every"]
    return settings


class Pretraining:
    """One run: encoder, objective and data on a device, and what an epoch does with them."""

    def __init__(
        self,
        label: str,
        backbone: nn.Module,
        objective: Objective,
        training: Training,
        recipes: Sequence[Recipe],
        data: ResidentSet | StreamedSet,
        validation: ResidentSet | StreamedSet,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        machine: Machine,
    ):
        self.label, self.training, self.recipes = label, training, recipes[: objective.views]
        self.data, self.validation, self.seed = data, validation, seed
        self.machine = machine.for_training(backbone)
        self.images = training.batch_size * training.accumulate  # of a step, in all processes
        self._check(label, training, objective)
        self.steps = data.steps(self.images) if objective.trains else 0
        # channels last: what tensor cores read, and a quarter faster for the ResNets on a CPU too
        self.backbone = backbone.to(machine.device, memory_format=torch.channels_last)
        self.objective = objective.to(machine.device, memory_format=torch.channels_last)
        self.mean = torch.tensor(mean, device=machine.device)
        self.std = torch.tensor(std, device=machine.device)
        self.modules = join_batch_norm(nn.ModuleList((self.backbone, self.objective)))
        self.best = Best()
        self._view: Callable = self._augmented
        self._loss: Callable = self.objective.forward
        self.trained = Trained(self.modules) if machine.compile else None
        if machine.compile:
            self._view = Compiled(self._view, f"{label}, augmentation")
        if machine.compile and ranks() == 1:  # what processes exchange is no part of a graph
            self._loss = Compiled(self._loss, f"{label}, step")

    def _check(self, label: str, training: Training, objective: Objective) -> None:
        """Raise InputError where batches, processes and sets do not fit each other."""
        if not len(self.data):
            raise InputError(f"{label}: the set has no training images; run `download` again")
        if training.batch_size % ranks() or training.batch_size < 2 * ranks():
            raise InputError(
                f"{label}: batch_size is {training.batch_size}, which {ranks()} processes cannot share "
                f"equally; use a multiple of {ranks()}, at least {2 * ranks()}"
            )
        if objective.trains and training.accumulate > 1 and self.images > len(self.data):
            raise InputError(
                f"{label}: batch_size {training.batch_size} times accumulate {training.accumulate} is "
                f"{self.images}, but the set has {len(self.data)} images; lower one of them"
            )
        if training.knn_every and not len(self.validation):
            raise InputError(
                f"{label}: the set has no validation images to watch the run by; raise data.validation and "
                "run `download` again, or set knn_every to 0"
            )

    def run(self, checkpoint: Checkpoint | None) -> list[dict[str, float]]:
        """Train, and return one row of curves per epoch; a single row for an objective without training.

        The networks are then those of epoch `written` (0: untrained).
        """
        if not self.objective.trains:
            curves = [self._probed() if self.training.knn_every else {}]
        else:
            self.optimiser = build_optimiser(
                self.training.optimiser,
                self.modules,
                lr=self.training.lr,
                weight_decay=self.training.weight_decay,
                momentum=self.training.momentum,
                nesterov=self.training.nesterov,
            )
            curves = run_epochs(
                self.label,
                epochs=self.training.epochs,
                epoch_step=self._epoch,
                state={"networks": self.modules, "optimiser": self.optimiser, "best": self.best},
                checkpoint=checkpoint,
                save_every=self.training.save_every,
                items=self.steps * self.images,
                memory="use a smaller batch_size, and a larger `accumulate` to keep the images of a step",
                silent=rank() > 0,
            )
        self.written = len(curves) if self.objective.trains else 0
        if self.best.weights:
            self.modules.load_state_dict(self.best.weights)
            self.written = self.best.epoch
        curves[max(self.written, 1) - 1]["effective_rank"] = effective_rank(self.features(self.data))
        return curves

    def _epoch(self, epoch: int, bar) -> dict[str, float]:
        """Run an epoch's steps; their losses stay on the device and are read once, at its end."""
        self.modules.train()
        seed_layers(self.seed, epoch, self.data.device)
        own = torch.Generator(self.data.device).manual_seed(stream_seed(self.seed, "objective", epoch))
        self.objective.before_epoch(epoch, own)
        if self.trained:
            self.trained.watch()
        generator = torch.Generator(self.data.device).manual_seed(stream_seed(self.seed, "augment", epoch))
        batches = self.data.batches(self._shares(epoch))
        steps = range(epoch * self.steps, (epoch + 1) * self.steps)
        rows, names = [], []
        for step in steps:
            terms = self._step(step, batches, generator)
            names = list(terms)
            rows.append(torch.stack(list(terms.values())))
            bar.update(self.images)
        values = averaged(torch.stack(rows)).cpu()
        check_steps(self.label, epoch, names, values, steps[0])
        row = {"lr": self._rate(steps[-1]), **dict(zip(names, values.mean(0).tolist(), strict=True))}
        if self.training.knn_every and (epoch + 1) % self.training.knn_every == 0:
            row |= self._probed()
            if self.training.keep == "best":
                self.best.offer(epoch + 1, row["knn"], self.modules)
        return row

    def _shares(self, epoch: int) -> Iterator[Tensor]:
        """Yield the indices of the epoch's batches, of each the part of this process."""
        for index in self.data.epoch_batches(self.seed, epoch, self.images):
            yield from map(share, index.split(self.training.batch_size))

    def _step(
        self, step: int, batches: Iterator[tuple[Tensor, Tensor]], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One update; returns loss and terms as tensors, so that nothing waits for the device."""
        set_learning_rate(self.optimiser, self._rate(step), self._weight_decay(step))
        self.optimiser.zero_grad()
        parts = [self._backward(*next(batches), generator) for _ in range(self.training.accumulate)]
        sum_gradients(self.modules.parameters())
        if self.training.clip:
            nn.utils.clip_grad_norm_(self.modules.parameters(), self.training.clip)
        self.optimiser.step()
        self.objective.after_step(self.backbone, step, self.steps * self.training.epochs)
        if len(parts) == 1:
            return parts[0]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def _backward(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Add the gradient of one batch, its share of the step; returns loss and terms."""
        # drawn for the rows of all processes, so that each image's views do not depend on their number
        draws = [share(draw(ranks() * len(images), generator)) for _ in self.recipes]
        views = [self._view(images, *part) for part in zip(draws, self.recipes, strict=True)]
        self.objective.before_batch(ranks() * len(images))
        with self.machine.autocast():
            loss, terms = self._loss(self.backbone, views, labels)
        (loss / (self.training.accumulate * ranks())).backward()
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _augmented(self, images: Tensor, draws: Tensor, recipe: Recipe) -> Tensor:
        view = normalise(apply_draws(images, draws, recipe), self.mean, self.std)
        return view.contiguous(memory_format=torch.channels_last)

    def _rate(self, step: int) -> float:
        t = self.training
        return learning_rate(
            t.schedule,
            step,
            self.steps * t.epochs,
            base=t.lr,
            warmup=self.steps * t.warmup_epochs,
            final=t.final_lr,
            milestones=[self.steps * epoch for epoch in t.milestones],
            gamma=t.gamma,
            cycle=self.steps * t.cycle_epochs,
            growth=t.growth,
        )

    def _weight_decay(self, step: int) -> float:
        t = self.training
        if not t.final_weight_decay:
            return t.weight_decay
        return cosine_between(t.weight_decay, t.final_weight_decay, step, self.steps * t.epochs)

    @torch.inference_mode()
    def features(self, data: ResidentSet | StreamedSet, batch_size: int = 512) -> Tensor:
        """Return the representations [N, D] of a set, unaugmented, in evaluation mode."""
        self.modules.eval()
        parts = []
        for images in data.in_order(batch_size):
            with self.machine.autocast():
                features = self.backbone(normalise(images, self.mean, self.std))
                parts.append(self.objective.representation(features).float())
        return torch.cat(parts)

    def _probed(self) -> dict[str, float]:
        """Return the accuracies on ID validation of neighbours and of a linear classifier in ID train."""
        bank, queries = self.features(self.data), self.features(self.validation)
        pairs = (bank, self.data.labels, queries, self.validation.labels)
        return {"knn": knn_accuracy(*pairs), "linear": linear_accuracy(*pairs)}
