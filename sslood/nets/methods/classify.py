"""Supervised training of a classifier on the in-distribution set."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from sslood.core.errors import InputError
from sslood.core.machine import Machine
from sslood.core.seeding import numpy_stream
from sslood.core.splits import stratified_choice
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import (
    Views,
    accuracy,
    check_options,
    check_sets,
    predict,
    prepared,
    run_supervised,
    set_modes,
)
from sslood.nets.networks.files import Model
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.optimisers import build_optimiser
from sslood.nets.training.schedules import learning_rate


@dataclass(frozen=True)
class ClassifyOptions:
    """The sections `train` and `finetune`. `lr` is the peak rate; the schedule advances with every step."""

    labels: float  # percent of ID train that is learnt from
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
        if not 0 < self.labels <= 100:
            raise InputError(f"train: labels is {self.labels:g}; use a percentage above 0, at most 100")


def labelled(data: ResidentSet, percent: float, seed: int) -> ResidentSet:
    """Return the `percent` of a set whose labels a run may know, each class in proportion.

    The choice follows from the seed alone, so all models of a seed learn from the same images; it is the
    first draw of the linear probe with as many labels. InputError where a class is left without an image.
    """
    if percent == 100:
        return data
    labels, share = data.labels.cpu().numpy(), percent / 100
    rows = stratified_choice(labels, round(share * len(labels)), numpy_stream(seed, "labels", str(share), 0))
    counts = np.unique(labels, return_counts=True)[1]
    if (missing := len(counts) - len(np.unique(labels[rows]))) > 0:
        raise InputError(
            f"train: labels is {percent:g} % of {len(labels)} training images, which leaves {missing} of "
            f"{len(counts)} classes without one; use at least {math.ceil(100 / counts.min())}"
        )
    return ResidentSet(data.images[rows], data.labels[rows], data.device)


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

    The last epoch is kept. Of `options.labels` below 100 the rest of `train` is not looked at, and a batch
    holds at most the images that are left. Raises InputError for a batch larger than the set.
    """
    if options.labels < 100:
        train = labelled(train, options.labels, seed)
        options = replace(options, batch_size=min(options.batch_size, len(train)))
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
    machine, network = prepared(model, machine, "train")

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
