"""Supervised training of a classifier on the in-distribution set."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from stages.data.resident import ResidentSet
from stages.machine import Machine
from stages.models.files import Model
from stages.training.engine.checkpoint import Checkpoint
from stages.training.engine.compiling import Compiled
from stages.training.engine.optimisers import build_optimiser
from stages.training.engine.schedules import learning_rate
from stages.training.supervised import (
    Views,
    accuracy,
    check_options,
    check_sets,
    predict,
    run_supervised,
    set_modes,
)


@dataclass(frozen=True)
class ClassifyOptions:
    """The section `train` of params.yaml. `lr` is the peak rate; the schedule advances with every step."""

    epochs: int
    batch_size: int
    optimiser: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: Literal["constant", "cosine"]
    warmup_epochs: int
    label_smoothing: float
    freeze: Literal["none", "backbone"]
    save_every: int

    def __post_init__(self):
        check_options("train", self, share=("label_smoothing", "momentum"))


def train_classifier(
    model: Model,
    train: ResidentSet,
    validation: ResidentSet,
    *,
    options: ClassifyOptions,
    views: Views,
    seed: int,
    machine: Machine,
    checkpoint: Checkpoint | None,
) -> list[dict[str, float]]:
    """Train `model` in place with cross-entropy; return the curves.

    The last epoch is kept. Raises InputError for a batch larger than the set.
    """
    check_sets(train, validation, options.batch_size)
    set_modes(model, options.freeze)
    optimiser = build_optimiser(
        options.optimiser,
        model,
        lr=options.lr,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.nesterov,
    )
    network = Compiled(model, "train") if machine.compile else model

    def begin_epoch(epoch: int):
        set_modes(model, options.freeze)
        generator = views.generator(epoch, "id")

        def step_loss(index: torch.Tensor):
            labels = train.labels[index]
            with machine.autocast():
                logits = network(views(train.images[index], generator)).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
            return loss, {"loss": loss, "train_accuracy": (logits.argmax(1) == labels).float().mean()}

        return step_loss

    def watch() -> dict[str, float]:
        logits = predict(model, validation.images, views, machine, options.batch_size)
        return {"validation_accuracy": accuracy(logits, validation.labels)}

    def rate(step: int, per_epoch: int) -> float:
        steps, warmup = options.epochs * per_epoch, options.warmup_epochs * per_epoch
        return learning_rate(options.schedule, step, steps, base=options.lr, warmup=warmup)

    return run_supervised(
        "train",
        model,
        train,
        options=options,
        optimiser=optimiser,
        rate=rate,
        begin_epoch=begin_epoch,
        watch=watch,
        seed=seed,
        checkpoint=checkpoint,
    )
