"""One member of an ensemble of classifiers, each trained to be unsure about the classes that it leaves out.

Vyas et al. 2018, "Out-of-distribution detection using an ensemble of self supervised leave-out classifiers",
arXiv:1809.03576, section 3. And the members of its two controls: without that loss, and with all classes.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import Need
from sslood.core.settings import at_least
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import (
    Batch,
    Supervised,
    WithOutliers,
    accuracy,
    load_split,
    watched_accuracy,
)
from sslood.nets.networks.model import Model
from sslood.nets.training.best import Best
from sslood.nets.training.settings import TrainingSettings

NEEDS = (Need(classes=3),)  # of ID train; `least_classes` of three folds


@dataclass(frozen=True)
class LeaveoutSettings(TrainingSettings):
    """The section `leaveout`; a batch holds batch_size images of kept classes and as many of the others."""

    beta: Annotated[float, at_least(0), "weight of the entropy margin"]
    margin: Annotated[float, at_least(0), "entropy margin, in nats"]
    margin_of: Annotated[
        Literal["batch", "image"],
        "batch: between the mean entropies of a batch; image: of every pair of images",
    ]
    select: Annotated[
        Literal["last", "leftout", "published"],
        "the epoch that is kept: the last, or that of the highest AUROC of the maximum softmax probability, "
        "ID validation against the left-out classes there (leftout) or the tuning set (published)",
    ]
    folds: Annotated[tuple[int, ...], "the blocks that the classes are cut into: 0, 1, …"]
    seed: Annotated[int, "seed of the folds and of all members"]

    def for_all_classes(self) -> Self:
        """Return the settings of a member that knows all classes: it can select on the tuning set alone."""
        return replace(self, select="last") if self.select == "leftout" else self


def fold_classes(classes: int, folds: Sequence[int], fold: int, seed: int) -> tuple[list[int], list[int]]:
    """Return (kept, left out) class indices of `fold`, each sorted.

    NumPy's permutation of the classes by `seed` (RandomState, whose numbers never change) is cut into
    len(folds) near-equal blocks; fold i leaves block i out, so every class is left out exactly once. Ten
    classes, five folds and seed 3 give the published folds. LeftOut for too few classes.
    """
    check_folds(folds, fold)
    if classes < (least := least_classes(len(folds))):
        raise LeftOut(f"needs {least} classes for {len(folds)} folds, there are {classes}", "leaveout: ")
    blocks = np.array_split(np.random.RandomState(seed % 2**32).permutation(classes), len(folds))
    left = sorted(blocks[fold].tolist())
    return [c for c in range(classes) if c not in left], left


def check_folds(folds: Sequence[int], fold: int) -> None:
    """Raise InputError unless folds are 0, 1, …, at least two, and `fold` is one of them."""
    if list(folds) != list(range(len(folds))) or len(folds) < 2 or fold not in folds:
        raise InputError(
            f"leaveout: folds are {list(folds)} and fold is {fold}; use 0, 1, …, at least two, and one of "
            "these as fold"
        )


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


def entropies(logits: Tensor) -> Tensor:
    """Return the softmax entropy [N] of logits [N, K], in nats."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)


def entropy_margin(logits_in: Tensor, logits_out: Tensor, margin: float, of: str = "batch") -> Tensor:
    """Return max(0, margin + H(ID) - H(OOD)), a scalar.

    of "batch": between the mean entropies of the two batches (eq. 1). of "image", which is ours: the mean of
    that hinge over every pair of an ID and an OOD image, so that unsure OOD images do not make up for sure
    ones.
    """
    inside, outside = entropies(logits_in), entropies(logits_out)
    if of == "batch":
        return F.relu(margin + inside.mean() - outside.mean())
    return F.relu(margin + inside[:, None] - outside).mean()


def leaveout_objective(
    logits: Tensor, labels: Tensor, *, beta: float, margin: float, of: str = "batch"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (CE + beta * entropy_margin, its terms): logits [N + M, K], `labels` [N] of the first N."""
    own, other = logits[: len(labels)], logits[len(labels) :]
    cross, gap = F.cross_entropy(own, labels), entropy_margin(own, other, margin, of)
    terms = {"cross_entropy": cross, "entropy_margin": gap, "train_accuracy": accuracy(own, labels)}
    return cross + beta * gap, terms


def msp_auroc(logits_in: Tensor, logits_out: Tensor) -> float:
    """Return the AUROC of the maximum softmax probability, kept against left out; ties count one half.

    NaN, which ends the training, if a logit is not finite: sorting would give NaN a rank. Probabilities
    closer than 1e-9 in their logarithm are equal, whatever the processor makes of them.
    """
    if not (logits_in.isfinite().all() and logits_out.isfinite().all()):
        return math.nan
    inside, outside = (
        F.log_softmax(x.cpu().double(), 1).amax(1).numpy().round(9) for x in (logits_in, logits_out)
    )
    inside.sort()
    above = len(inside) - np.searchsorted(inside, outside, "right")
    ties = np.searchsorted(inside, outside, "right") - np.searchsorted(inside, outside, "left")
    return float((above + 0.5 * ties).mean() / len(inside))


def tuning_images(settings: LeaveoutSettings, path: str | Path, device: torch.device) -> Tensor | None:
    """Return the validation images of the tuning set at `path`, uint8 [N, C, H, W], for the published rule.

    None for any other rule; the file need not be there. InputError if the set has no validation images.
    """
    if settings.select != "published":
        return None
    try:
        images = load_split(path, "validation", device).images
    except InputError as error:
        raise InputError(
            f"leaveout.select: published needs validation images of the set `tuning`, and {error}; name a "
            "set with role tuning there, or write `select: leftout`"
        ) from None
    return images


class Watched(Supervised):
    """Measures a member after each epoch, and keeps the epoch that `settings.select` asks for.

    Measured on ID validation: the accuracy on the kept classes and the AUROC of the maximum softmax
    probability, kept against left out; and against `tuning`, the images of the published rule. A measure that
    has no images is left out of the curves; LeftOut if it is to select.
    """

    settings: LeaveoutSettings

    def watch_on(self, validation: ResidentSet, kept: Sequence[int], tuning: Tensor | None) -> None:
        """Say what is measured on; to be called once, before the first epoch."""
        self._known, unknown = split_classes(validation, kept)
        self._against = {"validation_auroc": unknown.images}
        if tuning is not None:
            self._against["published_auroc"] = tuning
        self._selects = {"leftout": "validation_auroc", "published": "published_auroc"}.get(
            self.settings.select
        )
        self.best = None
        if self._selects:
            self.best = Best(self.model)
            self.modules = nn.ModuleDict({"model": self.model, "best": self.best})
        if self._selects and not (len(self._known) and len(self._against.get(self._selects, ()))):
            what = "that it keeps" if not len(self._known) else "that it leaves out"
            raise LeftOut(
                f"ID validation has no image of the classes {what}, which `select: {self.settings.select}` "
                "selects on; raise data.validation, or write `select: last`",
                "leaveout: ",
            )

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, terms) of a batch's logits [N + M, K], `labels` [N] of the first."""

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        return self.loss(self.logits(images), labels)

    def watch(self, epoch: int) -> dict[str, float]:
        if not len(self._known):
            return {}
        inside = self.predict(self._known.images)
        found = {"validation_accuracy": watched_accuracy(inside, self._known.labels)}
        for name, images in self._against.items():
            if len(images):
                found[name] = msp_auroc(inside, self.predict(images))
        if self.best and self._selects:
            self.best.offer(self.model, found[self._selects], epoch)
        return found

    @property
    def epoch(self) -> int | None:
        """The epoch, from 1, whose weights are kept, None for the last."""
        return int(self.best.epoch) + 1 if self.best else None

    def restore_best(self) -> None:
        """Put the weights of that epoch into the model, after the training."""
        if self.best:
            self.model.load_state_dict(self.best.model.state_dict())


class Leaveout(Watched, WithOutliers):
    """CE(kept) + beta * entropy_margin(kept, left out).

    Equal batches of kept and left-out images form one forward pass, so batch norm sees in training the
    mixture whose statistics it keeps for testing.
    """

    def __init__(
        self,
        model: Model,
        data: ResidentSet,
        validation: ResidentSet,
        *,
        kept: Sequence[int],
        settings: LeaveoutSettings,
        tuning: Tensor | None = None,
        **how: Any,
    ):
        inside, outside = split_classes(data, kept)
        size = settings.batch_size
        how |= {"outlier_batch_size": size, "stream": "leftout", "settings": settings}
        super().__init__(model, inside, validation, outside, **how)
        self.prepare_backbone()
        self.watch_on(validation, kept, tuning)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.settings
        return leaveout_objective(logits, labels, beta=s.beta, margin=s.margin, of=s.margin_of)


class PlainMember(Watched):
    """CE(kept): a member without the entropy margin; with every class kept, one of a deep ensemble."""

    def __init__(
        self,
        model: Model,
        data: ResidentSet,
        validation: ResidentSet,
        *,
        kept: Sequence[int],
        settings: LeaveoutSettings,
        tuning: Tensor | None = None,
        **how: Any,
    ):
        super().__init__(model, split_classes(data, kept)[0], validation, settings=settings, **how)
        self.prepare_backbone()
        self.watch_on(validation, kept, tuning)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return F.cross_entropy(logits, labels), {"train_accuracy": accuracy(logits, labels)}
