"""Pretraining an encoder with an objective, as a task of the training engine."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.core.machine import Machine
from sslood.core.needs import CLASSIFIED
from sslood.core.precision import at_least_float32, autocast
from sslood.core.seeding import stream_seed
from sslood.data.images.augment import AugmentSettings
from sslood.nets.networks.backbone import PREPARED, Backbone
from sslood.nets.selfsup.objective import Objective
from sslood.nets.selfsup.settings import PretrainSettings
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.engine import Engine, ImageData, Task, compiled, place
from sslood.nets.training.ranks import ranks
from sslood.nets.training.views import Views
from sslood.nets.training.watch import effective_rank, knn_accuracy, linear_accuracy

Batch = tuple[list[Tensor], Tensor]  # views and labels


class Pretraining(Task[Batch]):
    """One run: encoder, objective and data on a device.

    mean, std: one value per channel, in units of [0, 1]. InputError where the set lacks images.
    """

    settings: PretrainSettings

    def __init__(
        self,
        label: str,
        backbone: Backbone,
        objective: Objective,
        settings: PretrainSettings,
        recipes: Sequence[AugmentSettings],
        data: ImageData,
        validation: ImageData,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        machine: Machine,
    ):
        self.label, self.settings, self.seed, self.machine = label, settings, seed, machine
        self.data, self.validation = data, validation
        self._check()
        self.modules = place(nn.ModuleList((backbone, objective)), machine.device, settings.precision)
        self.backbone, self.objective = backbone, objective
        self.views = Views(
            recipes[: objective.views], mean=mean, std=std, seed=seed, device=machine.device,
            precision=settings.precision, compiled=f"{label}, augmentation" if machine.compile else None,
        )  # fmt: skip
        backbone.prepare(map(self.views.clean, data.in_order(PREPARED)))
        objective.prepared(backbone)
        self._loss = compiled(objective.forward, f"{label}, step", machine)

    def _check(self) -> None:
        if not len(self.data):
            raise InputError(f"{self.label}: the set has no training images; run `download` again")
        if self.settings.knn_every and not len(self.validation):
            raise InputError(
                f"{self.label}: the set has no validation images to measure accuracies on; raise "
                "data.validation and run `download` again, or set knn_every to 0"
            )

    def run(self, checkpoint: Checkpoint | None) -> list[dict[str, float]]:
        """Train, and return one row of curves per epoch; a single row for an objective without training."""
        if self.objective.trains:
            curves = self.engine().train(checkpoint)
        else:
            curves = [self._accuracies() if self.settings.knn_every else {}]
        curves[-1]["effective_rank"] = effective_rank(self.features(self.data))
        return curves

    def engine(self) -> Engine[Batch]:
        """Return what runs the steps."""
        return Engine(self)

    def begin_epoch(self, epoch: int) -> None:
        self.modules.train()
        own = torch.Generator(self.machine.device).manual_seed(stream_seed(self.seed, "objective", epoch))
        self.objective.before_epoch(epoch, own)
        self._generator = self.views.generator(epoch)

    def batches(self, indices: Iterator[Tensor]) -> Iterator[Batch]:
        for images, labels in self.data.batches(indices):
            yield self.views(images, self._generator), labels

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        views, labels = batch
        self.objective.before_batch(ranks() * len(labels))
        return self._loss(self.backbone, views, labels)

    def after_step(self, step: int, steps: int) -> None:
        self.objective.after_step(self.backbone, step, steps)

    def watch(self, epoch: int) -> dict[str, float]:
        every = self.settings.knn_every
        return self._accuracies() if every and (epoch + 1) % every == 0 else {}

    @torch.inference_mode()
    def features(self, data: ImageData, batch_size: int = 512) -> Tensor:
        """Return the representations [N, D] of a set, unaugmented, in evaluation mode.

        InputError unless they are finite, as those of training may be: batch norm has other statistics there.
        """
        self.modules.eval()
        parts = []
        for images in data.in_order(batch_size):
            with autocast(self.machine.device, self.settings.precision):
                features = self.backbone(self.views.clean(images))
                parts.append(at_least_float32(self.objective.representation(features)))
        found = torch.cat(parts)
        if bad := int((~found.isfinite()).any(1).sum()):
            raise InputError(
                f"{self.label}: the features of {bad} of {len(found)} images are NaN or infinite in "
                "evaluation mode; the training has diverged: lower the learning rate or lengthen the warm-up"
            )
        return found

    def _accuracies(self) -> dict[str, float]:
        """Return the accuracies on ID validation of a kNN vote and of a linear classifier, from ID train.

        Nothing, unless there are classes to tell apart.
        """
        if CLASSIFIED.shortage(self.data.labels.cpu().numpy()):
            return {}
        bank, queries = self.features(self.data), self.features(self.validation)
        pairs = (bank, self.data.labels, queries, self.validation.labels)
        return {"knn": knn_accuracy(*pairs), "linear": linear_accuracy(*pairs)}
