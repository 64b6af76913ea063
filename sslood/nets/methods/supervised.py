"""What the supervised trainings share: a classifier as a task, its accuracy, a split of a set file."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslood.core.errors import LeftOut
from sslood.core.files import load_tensors
from sslood.core.machine import Machine
from sslood.core.precision import at_least_float32, autocast
from sslood.core.seeding import stream_seed
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.networks.backbone import PREPARED, Backbone
from sslood.nets.networks.model import Model
from sslood.nets.training.engine import ImageData, Task, compiled, place
from sslood.nets.training.settings import TrainingSettings
from sslood.nets.training.views import Views

Batch = tuple[Tensor, Tensor]  # images, the labelled ones first, and the labels of those


def load_split(path: str | Path, split: str, device: torch.device | str) -> ResidentSet:
    """Return one split of a set file on `device`; no other split is read."""
    names = [f"{split}.images", f"{split}.labels"]
    tensors, _ = load_tensors(path, kind="set", only=names)
    return ResidentSet(tensors[names[0]], tensors[names[1]], device)


class Supervised(Task[Batch]):
    """A model with a head, trained on labelled images; the accuracy on validation is measured per epoch.

    A subclass defines `step`, and `set_modes` where something is frozen. `preprocessing` holds the mean and
    std that travel with the model, `pictures` what PixMix mixes in. LeftOut if there is no validation image.
    """

    def __init__(
        self,
        model: Model,
        data: ImageData,
        validation: ResidentSet,
        *,
        recipe: AugmentSettings,
        preprocessing: Mapping[str, Sequence[float]],
        label: str,
        settings: TrainingSettings,
        seed: int,
        machine: Machine,
        pictures: Tensor | None = None,
    ):
        if not len(validation):
            raise LeftOut("the set has no validation images; raise data.validation and run `download` again")
        self.data, self.validation = data, validation
        self.label, self.settings, self.seed, self.machine = label, settings, seed, machine
        self.views = Views(
            [recipe], mean=preprocessing["mean"], std=preprocessing["std"], seed=seed, device=machine.device,
            precision=settings.precision, pictures=pictures,
            compiled=f"{label}, augmentation" if machine.compile else None,
        )  # fmt: skip
        self.modules = self.model = place(model, machine.device, settings.precision)
        self._network = compiled(self.model, label, machine)
        self.set_modes()  # before an optimiser is built: it takes what requires a gradient

    def prepare_backbone(self) -> None:
        """Give a backbone that starts from scratch what it takes from training images."""
        backbone = self.model.backbone
        assert isinstance(backbone, Backbone)
        backbone.prepare(map(self.views.clean, self.data.in_order(PREPARED)))

    def set_modes(self) -> None:
        """Prepare the model for a step."""
        self.model.train()

    def begin_epoch(self, epoch: int) -> None:
        self.set_modes()
        self._generator = self.views.generator("id", epoch)

    def batches(self, indices: Iterator[Tensor]) -> Iterator[Batch]:
        for images, labels in self.data.batches(indices):
            yield self.views(images, self._generator)[0], labels

    def logits(self, images: Tensor) -> Tensor:
        """Return logits [N, K] of augmented images, in at least float32."""
        return at_least_float32(self._network(images))

    def predict(self, images: Tensor) -> Tensor:
        """Return logits [N, K] of clean uint8 images, in evaluation mode."""
        return self._clean(self.model, images)

    def clean_features(self, images: Tensor) -> Tensor:
        """Return features [N, D] of clean uint8 images, in evaluation mode."""
        return self._clean(self.model.features, images)

    def _clean(self, outputs: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return self.evaluated(lambda batch: outputs(self.views.clean(batch)), images)

    @torch.no_grad()
    def evaluated(self, outputs: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Return outputs [N, …] of rows [N, …], batch by batch, in evaluation mode and at least float32."""
        self.model.eval()
        parts = []
        for batch in rows.split(self.settings.batch_size):
            with autocast(self.machine.device, self.settings.precision):
                parts.append(at_least_float32(outputs(batch)))
        return torch.cat(parts)

    def watch(self, epoch: int) -> dict[str, float]:
        logits = self.predict(self.validation.images)
        return {"validation_accuracy": watched_accuracy(logits, self.validation.labels)}


class WithOutliers(Supervised):
    """Each batch joins labelled images and outliers, which start again in a new order once all were used.

    `stream` names the random stream of the outliers' views. A batch holds at most all of the outliers.
    """

    def __init__(
        self,
        model: Model,
        data: ResidentSet,
        validation: ResidentSet,
        outliers: ResidentSet,
        *,
        outlier_batch_size: int,
        stream: str,
        **how: Any,
    ):
        super().__init__(model, data, validation, **how)
        self.outliers, self.stream = outliers, stream
        self.outlier_batch_size = min(outlier_batch_size, len(outliers))
        if self.outlier_batch_size < outlier_batch_size:
            few = f"there are only {len(outliers)}, and every batch has them all"
            tqdm.write(f"{self.label}: a batch asks for {outlier_batch_size} outliers, but {few}")
        outliers.steps(self.outlier_batch_size)  # refuses a set without images

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self._others = self.views.generator(self.stream, epoch)
        self._outlier_indices = endless(self.outliers, self.seed, epoch, self.outlier_batch_size)

    def batches(self, indices: Iterator[Tensor]) -> Iterator[Batch]:
        outliers = self.outliers.batches(self._outlier_indices)
        for (images, labels), (others, _) in zip(super().batches(indices), outliers, strict=False):
            yield torch.cat((images, self.views(others, self._others)[0])), labels


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of images whose largest logit is the label's, a scalar."""
    return (logits.argmax(1) == labels).float().mean()


def watched_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return `accuracy`, but NaN, which ends the training, if a logit is not finite.

    The largest of NaNs is the first: a diverged network would be right wherever the label is 0.
    """
    return accuracy(logits, labels).item() if logits.isfinite().all() else math.nan


def separation(scores_in: Tensor, scores_out: Tensor, correct: Tensor) -> dict[str, float]:
    """Return how well scores [N], [M], larger = more OOD, part ID images and outliers; fractions.

    validation_auroc: the share of pairs in which the outlier's is larger, ties one half. validation_oscr: the
    same over ID images that are classified `correct` [N], divided by all: the area under the rate of correct
    classification against false alarms (Dhamija et al. 2018, "Reducing network agnostophobia", section 4).
    NaN, which ends a training, unless all scores are finite: sorting would give NaN a rank.
    """
    inside, outside = (scores.detach().cpu().double().numpy() for scores in (scores_in, scores_out))
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        return dict.fromkeys(("validation_auroc", "validation_oscr"), math.nan)
    outside.sort()
    below, up_to = (np.searchsorted(outside, inside, side) for side in ("left", "right"))
    won = 1 - (below + up_to) / (2 * len(outside))
    return {
        "validation_auroc": float(won.mean()),
        "validation_oscr": float((won * correct.cpu().numpy()).mean()),
    }


def endless(data: ResidentSet, seed: int, epoch: int, batch_size: int) -> Iterator[Tensor]:
    """Yield index batches of one epoch without end, each pass over the set in a new order."""
    data.steps(batch_size)
    turn = 0
    while True:
        yield from data.epoch_batches(stream_seed(seed, "turns", epoch), turn, batch_size)
        turn += 1
