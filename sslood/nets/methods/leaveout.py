"""One member of an ensemble of classifiers, each trained to be unsure about the classes that it leaves out.

Vyas et al. 2018, "Out-of-distribution detection using an ensemble of self supervised leave-out classifiers",
arXiv:1809.03576, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import Need
from sslood.core.seeding import numpy_stream
from sslood.core.settings import at_least
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import Batch, WithOutliers, accuracy
from sslood.nets.networks.model import Model
from sslood.nets.training.settings import TrainingSettings

NEEDS = (Need(classes=3),)  # of ID train; `least_classes` of three folds


@dataclass(frozen=True)
class LeaveoutSettings(TrainingSettings):
    """The section `leaveout`; a batch holds batch_size images of kept classes and as many of the others."""

    beta: Annotated[float, at_least(0), "weight of the entropy margin"]
    margin: Annotated[float, at_least(0), "entropy margin, in nats"]
    folds: Annotated[tuple[int, ...], "the blocks that the classes are cut into: 0, 1, …"]
    seed: Annotated[int, "seed of the folds and of all members"]


def fold_classes(classes: int, folds: Sequence[int], fold: int, seed: int) -> tuple[list[int], list[int]]:
    """Return (kept, left out) class indices of `fold`, each sorted.

    A permutation of the classes, drawn from the stream "folds", is cut into len(folds) near-equal
    blocks; fold i leaves block i out, so every class is left out exactly once. LeftOut for too few classes.
    """
    if list(folds) != list(range(len(folds))) or len(folds) < 2 or fold not in folds:
        raise InputError(
            f"leaveout: folds are {list(folds)} and fold is {fold}; use 0, 1, …, at least two, and one of "
            "these as fold"
        )
    if classes < (least := least_classes(len(folds))):
        raise LeftOut(f"needs {least} classes for {len(folds)} folds, there are {classes}", "leaveout: ")
    blocks = np.array_split(numpy_stream(seed, "folds").permutation(classes), len(folds))
    left = sorted(blocks[fold].tolist())
    return [c for c in range(classes) if c not in left], left


def least_classes(folds: int) -> int:
    """Return how many classes the folds need, so that each leaves one out and keeps two."""
    return 4 if folds == 2 else folds


def split_classes(data: ResidentSet, kept: Sequence[int]) -> tuple[ResidentSet, ResidentSet]:
    """Return (images of `kept` classes, labelled by position in `kept`; all others, labelled -1)."""
    position = torch.full((max(int(data.labels.max()), *kept) + 1,), -1, device=data.device)
    position[torch.as_tensor(kept, device=data.device)] = torch.arange(len(kept), device=data.device)
    labels = position[data.labels]
    inside = labels >= 0
    own, other = (ResidentSet(data.images[rows], labels[rows], data.device) for rows in (inside, ~inside))
    return own, other


def mean_entropy(logits: Tensor) -> Tensor:
    """Return the batch mean of the softmax entropy of logits [N, K], in nats."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1).mean()


def entropy_margin(logits_in: Tensor, logits_out: Tensor, margin: float) -> Tensor:
    """Return max(0, margin + Hbar(ID) - Hbar(OOD)); the margin is on batch means, not per image (eq. 1)."""
    return F.relu(margin + mean_entropy(logits_in) - mean_entropy(logits_out))


def leaveout_objective(
    logits: Tensor, labels: Tensor, *, beta: float, margin: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (CE + beta * entropy_margin, its terms) for logits [2 N, K]; `labels` [N] are of the first N."""
    own, other = logits[: len(labels)], logits[len(labels) :]
    cross, gap = F.cross_entropy(own, labels), entropy_margin(own, other, margin)
    terms = {"cross_entropy": cross, "entropy_margin": gap, "train_accuracy": accuracy(own, labels)}
    return cross + beta * gap, terms


def msp_auroc(logits_in: Tensor, logits_out: Tensor) -> float:
    """Return the AUROC of the maximum softmax probability, kept against left out; ties count one half."""
    inside, outside = (F.log_softmax(x.cpu().double(), 1).amax(1).numpy() for x in (logits_in, logits_out))
    inside.sort()
    above = len(inside) - np.searchsorted(inside, outside, "right")
    ties = np.searchsorted(inside, outside, "right") - np.searchsorted(inside, outside, "left")
    return float((above + 0.5 * ties).mean() / len(inside))


class Leaveout(WithOutliers):
    """CE(kept) + beta * entropy_margin(kept, left out); the last epoch is kept: nothing is selected.

    Equal batches of kept and left-out images form one forward pass, so batch norm sees in training the
    mixture whose statistics it keeps for testing. The curves hold, on ID validation, the accuracy on kept
    classes and the AUROC of the maximum softmax probability, kept against left out. A measure that
    validation has no images for is left out.
    """

    settings: LeaveoutSettings

    def __init__(
        self,
        model: Model,
        data: ResidentSet,
        validation: ResidentSet,
        *,
        kept: Sequence[int],
        settings: LeaveoutSettings,
        **how: Any,
    ):
        inside, outside = split_classes(data, kept)
        self._known, self._unknown = split_classes(validation, kept)
        size = settings.batch_size
        how |= {"outlier_batch_size": size, "stream": "leftout", "settings": settings}
        super().__init__(model, inside, self._known if len(self._known) else validation, outside, **how)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        beta, margin = self.settings.beta, self.settings.margin
        return leaveout_objective(self.logits(images), labels, beta=beta, margin=margin)

    def watch(self, epoch: int) -> dict[str, float]:
        if not len(self._known):
            return {}
        inside = self.predict(self._known.images)
        found = {"validation_accuracy": accuracy(inside, self._known.labels).item()}
        if len(self._unknown):
            found["validation_auroc"] = msp_auroc(inside, self.predict(self._unknown.images))
        return found
