"""Supervised training of a classifier on the in-distribution set."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import tee
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslood.core.errors import InputError, LeftOut
from sslood.core.needs import CLASSIFIED
from sslood.core.rounding import decimal
from sslood.core.seeding import numpy_stream, stream_seed
from sslood.core.settings import Limits
from sslood.core.splits import stratified_choice
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import Batch, Supervised, accuracy
from sslood.nets.training.settings import TrainingSettings

NEEDS = (CLASSIFIED,)


@dataclass(frozen=True)
class ClassifySettings(TrainingSettings):
    """The sections `train` and `finetune`."""

    labels: Annotated[float, Limits(0, 100, low_included=False), "percent of ID train that is learnt from"]
    label_smoothing: Annotated[
        float,
        Limits(0, 1, high_included=False),
        "share of each target that is spread evenly over all classes",
    ]
    freeze: Annotated[Literal["none", "backbone"], "backbone: train the head alone"]
    alternate: Annotated[
        bool, "images are mirrored in every second epoch, half of them in the first, and not at random"
    ] = False


def labelled(
    data: ResidentSet, settings: ClassifySettings, seed: int
) -> tuple[ResidentSet, ClassifySettings]:
    """Return the images whose labels a run may know, each class in proportion, with settings that fit.

    The choice follows from the seed alone, so all models of a seed learn from the same images; it is the
    first draw of the linear probe with as many labels. A batch then holds at most all of these images.
    LeftOut where a class is left without an image.
    """
    percent = settings.labels
    if percent == 100:
        return data, settings
    # as the probe has it: 2.2 / 100 is 0.022000000000000002, which names another stream than 0.022
    labels, share = data.labels.cpu().numpy(), decimal(percent / 100, 15)
    rows = stratified_choice(labels, round(share * len(labels)), numpy_stream(seed, "labels", str(share), 0))
    counts = np.unique(labels, return_counts=True)[1]
    if (missing := len(counts) - len(np.unique(labels[rows]))) > 0:
        raise LeftOut(
            f"train: labels is {percent:g} % of {len(labels)} training images, which leaves {missing} of "
            f"{len(counts)} classes without one; use at least {math.ceil(100 / counts.min())}"
        )
    few = ResidentSet(data.images[rows], data.labels[rows], data.device)
    return few, replace(settings, batch_size=min(settings.batch_size, len(few)))


class Classify(Supervised):
    """Cross-entropy on augmented images; the last epoch is kept.

    A frozen backbone stays in evaluation mode, since training mode would move its batch-norm statistics.
    """

    settings: ClassifySettings

    def __init__(self, *args: Any, settings: ClassifySettings, recipe: AugmentSettings, **how: Any):
        if settings.alternate and recipe.flip:
            raise InputError(
                f"train: alternate mirrors every image in turn, and flip is {recipe.flip:g}, which mirrors "
                "at random; set alternate to false, or flip of augment.classifier to 0"
            )
        super().__init__(*args, settings=settings, recipe=recipe, **how)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        if self.settings.alternate:
            self._mirrored = mirrored(len(self.data), self.seed, epoch).to(self.data.device)

    def batches(self, indices: Iterator[Tensor]) -> Iterator[Batch]:
        if not self.settings.alternate:
            yield from super().batches(indices)
            return
        ahead, indices = tee(indices)  # images of a streamed set are read ahead
        for index, (images, labels) in zip(indices, self.data.batches(ahead), strict=True):
            turned = self._mirrored[index.to(self._mirrored.device)].view(-1, 1, 1, 1)
            images = torch.where(turned, images.flip(-1), images)
            yield self.views(images, self._generator)[0], labels

    def set_modes(self) -> None:
        super().set_modes()
        if self.settings.freeze == "backbone":
            self.model.backbone.eval()
            self.model.backbone.requires_grad_(False)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        logits = self.logits(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        return loss, {"train_accuracy": accuracy(logits, labels)}


def mirrored(count: int, seed: int, epoch: int) -> Tensor:
    """Return which of `count` images are mirrored in epoch `epoch`, from 0: bool [count].

    Half of them at random in the first epoch, and then each in every second one, so that two epochs show both
    sides of every image (Jordan 2024, arXiv:2404.00498, section 3.6).
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, "mirror"))
    first = torch.rand(count, generator=generator) < 0.5
    return first ^ bool(epoch % 2)
