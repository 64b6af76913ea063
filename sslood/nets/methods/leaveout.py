"""One member of an ensemble of leave-out classifiers: Vyas et al. 2018 (ECCV), section 3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from sslood.core.errors import InputError
from sslood.core.machine import Machine
from sslood.core.seeding import numpy_stream
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import (
    Views,
    accuracy,
    build_sgd,
    check_options,
    check_sets,
    endless,
    predict,
    prepared,
    run_supervised,
)
from sslood.nets.networks.files import Model
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.schedules import learning_rate


@dataclass(frozen=True)
class LeaveoutOptions:
    """The section `leaveout` of params.yaml. `milestones` are epochs, for the schedule "steps"."""

    epochs: int
    batch_size: int
    lr: float
    schedule: Literal["constant", "cosine", "steps"]
    milestones: tuple[int, ...]
    gamma: float
    momentum: float
    nesterov: bool
    weight_decay: float
    beta: float
    margin: float
    folds: tuple[int, ...]
    seed: int
    save_every: int

    def __post_init__(self):
        check_options("leaveout", self, share=("momentum",))


def fold_classes(classes: int, folds: Sequence[int], fold: int, seed: int) -> tuple[list[int], list[int]]:
    """Return (kept, left out) class indices of `fold`, each sorted.

    A permutation of the classes, drawn from the stream "folds", is cut into len(folds) near-equal
    blocks; fold i leaves block i out, so every class is left out exactly once.
    """
    if list(folds) != list(range(len(folds))) or not 2 <= len(folds) <= classes or fold not in folds:
        raise InputError(
            f"leaveout: folds are {list(folds)} and fold is {fold}; use 0, 1, … up to at most {classes - 1}, "
            f"at least two of them, and one of these as fold"
        )
    blocks = np.array_split(numpy_stream(seed, "folds").permutation(classes), len(folds))
    left = sorted(blocks[fold].tolist())
    kept = [c for c in range(classes) if c not in left]
    if len(kept) < 2:
        raise InputError(f"leaveout: fold {fold} keeps {len(kept)} class; use more folds or more classes")
    return kept, left


def split_classes(data: ResidentSet, kept: Sequence[int]) -> tuple[ResidentSet, ResidentSet]:
    """Return (images of `kept` classes, labelled by position in `kept`; all others, labelled -1)."""
    position = torch.full((int(data.labels.max()) + 1,), -1, device=data.device)
    position[torch.as_tensor(kept, device=data.device)] = torch.arange(len(kept), device=data.device)
    labels = position[data.labels]
    inside = labels >= 0
    parts = [(data.images[chosen], labels[chosen]) for chosen in (inside, ~inside)]
    return tuple(ResidentSet(images, own, data.device) for images, own in parts)


def mean_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the batch mean of the softmax entropy of logits [N, K], in nats."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1).mean()


def entropy_margin(logits_in: torch.Tensor, logits_out: torch.Tensor, margin: float) -> torch.Tensor:
    """Return max(0, margin + Hbar(ID) - Hbar(OOD)); the margin is on batch means, not per image (eq. 1)."""
    return F.relu(margin + mean_entropy(logits_in) - mean_entropy(logits_out))


def leaveout_objective(
    logits: torch.Tensor, labels: torch.Tensor, *, beta: float, margin: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return (CE + beta * entropy_margin, its terms) for logits [2 N, K]; `labels` [N] are of the first N."""
    own, other = logits[: len(labels)], logits[len(labels) :]
    cross, gap = F.cross_entropy(own, labels), entropy_margin(own, other, margin)
    right = (own.argmax(1) == labels).float().mean()
    return cross + beta * gap, {"cross_entropy": cross, "entropy_margin": gap, "train_accuracy": right}


def msp_auroc(logits_in: torch.Tensor, logits_out: torch.Tensor) -> float:
    """Return the chance that a kept image has the larger maximum softmax probability; ties count one half."""
    inside, outside = (F.log_softmax(x.cpu().double(), 1).amax(1).numpy() for x in (logits_in, logits_out))
    inside.sort()
    above = len(inside) - np.searchsorted(inside, outside, "right")
    ties = np.searchsorted(inside, outside, "right") - np.searchsorted(inside, outside, "left")
    return float((above + 0.5 * ties).mean() / len(inside))


def train_leaveout(
    model: Model,
    train: ResidentSet,
    validation: ResidentSet,
    *,
    kept: Sequence[int],
    options: LeaveoutOptions,
    views: Views,
    seed: int,
    machine: Machine,
    checkpoint: Checkpoint | None,
) -> list[dict[str, float]]:
    """Train `model` in place with CE(kept) + beta * entropy_margin(kept, left out); return the curves.

    Equal batches of kept and left-out images form one forward, so batch norm sees in training the
    mixture whose statistics it keeps for testing. The last epoch is kept: nothing is selected. The
    curves hold, on ID validation, the accuracy on kept classes and the AUROC of the maximum softmax
    probability, kept against left out.
    """
    inside, outside = split_classes(train, kept)
    val_inside, val_outside = split_classes(validation, kept)
    check_sets(inside, val_inside, options.batch_size)
    if options.batch_size > len(outside):
        raise InputError(
            f"batch_size is {options.batch_size}, but only {len(outside)} images are left out; lower it"
        )
    optimiser = build_sgd(model, options)
    machine, network = prepared(model, machine, "leaveout")

    def begin_epoch(epoch: int):
        model.train()
        generator, others = views.generator(epoch, "id"), views.generator(epoch, "leftout")
        outliers = endless(outside, seed, epoch, options.batch_size)

        def step_loss(index: torch.Tensor):
            images = views(inside.images[index], generator), views(outside.images[next(outliers)], others)
            with machine.autocast():
                logits = network(torch.cat(images)).float()
            return leaveout_objective(logits, inside.labels[index], beta=options.beta, margin=options.margin)

        return step_loss

    def watch() -> dict[str, float]:
        clean = [
            predict(model, part.images, views, machine, options.batch_size)
            for part in (val_inside, val_outside)
        ]
        return {
            "validation_accuracy": accuracy(clean[0], val_inside.labels),
            "validation_auroc": msp_auroc(*clean),
        }

    return run_supervised(
        "leaveout",
        model,
        inside,
        options=options,
        optimiser=optimiser,
        rate=lambda step, per_epoch: _rate(options, step, per_epoch),
        begin_epoch=begin_epoch,
        watch=watch,
        seed=seed,
        checkpoint=checkpoint,
    )


def _rate(options: LeaveoutOptions, step: int, per_epoch: int) -> float:
    return learning_rate(
        options.schedule,
        step,
        options.epochs * per_epoch,
        base=options.lr,
        milestones=[milestone * per_epoch for milestone in options.milestones],
        gamma=options.gamma,
    )
