"""What every self-supervised objective is: a module that turns views of a batch into a loss."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.nets.networks.heads import build_projector
from sslood.nets.training.ranks import gathered
from sslood.nets.training.watch import spread


class Objective(nn.Module, ABC):
    """One objective with all that it owns: projectors, predictors, a momentum teacher, statistics.

    Parameters that require a gradient are trained with the backbone's; buffers and frozen modules
    (a teacher) are updated by `after_step`. All of it is saved in checkpoints through `state_dict`.
    A subclass names its `Constants` (a frozen dataclass: the section `objectives.<name>`) and defines
    `forward`. It is built under a seed, after the backbone.
    """

    Constants: ClassVar[type]
    views: ClassVar[int] = 2  # augmented views of each image that `forward` takes
    trains: ClassVar[bool] = True  # False: the untrained encoder is the result

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__()
        self.constants = constants

    @abstractmethod
    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Normalised views, each [N, C, H, W], and labels [N] -> (loss, terms to be watched), scalars.

        The terms hold "spread" (see `watch.spread`), by which a collapse is noticed. Under
        torchrun the views are this rank's rows, and the loss is a mean over them, or is made of embeddings
        `gathered` from all ranks where images of a batch meet (see `sslood.nets.training.ranks`).
        """

    def before_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Prepare epoch `epoch` (from 0); `generator` is its stream for draws of the objective's own."""

    def before_batch(self, n: int) -> None:
        """Draw what `forward` needs for n images (of all ranks); outside `forward`, which may be compiled."""

    def after_step(self, backbone: nn.Module, step: int, steps: int) -> None:
        """Update what gradients do not (a moving average, a centre) after step `step` of `steps`."""

    def exported(self) -> Mapping[str, nn.Module]:
        """Return the modules that the model file keeps beside the backbone, by prefix."""
        return {}

    def described(self) -> dict[str, Any]:
        """Return the metadata of the model file that say how to rebuild the `exported` modules."""
        return {"projector": self.constants.projector} if "projector" in self.exported() else {}

    def representation(self, features: Tensor) -> Tensor:
        """Return what downstream uses of the backbone's features [N, D]: these themselves, as a rule."""
        return features


class TwoViews(Objective):
    """Backbone and projector on each of two views, and a symmetric loss of the two projections.

    The views go through the network one after the other, so each has its own batch statistics.
    A subclass defines `loss`; its constants hold `projector` (widths).
    """

    batch_norm: ClassVar[bool] = True  # in the projector

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__(backbone, constants, classes=classes)
        self.projector = build_projector(
            backbone.feature_dim, constants.projector, batch_norm=self.batch_norm
        )

    @abstractmethod
    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Projections [N, D] of the two views and labels [N] -> (loss, its terms)."""

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z1, z2 = (self.projector(backbone(view)) for view in views)
        # logarithms of sums and squared correlations lose their digits in half precision
        with torch.autocast(z1.device.type, enabled=False):
            z1, z2 = gathered(z1.float()), gathered(z2.float())
            loss, terms = self.loss(z1, z2, gathered(labels))
            return loss, {**terms, "spread": spread(z1)}

    def exported(self) -> Mapping[str, nn.Module]:
        return {"projector": self.projector}


def need_weights(constants: Any, *names: str) -> None:
    """Raise InputError where a weight of the loss is not finite or negative: it would reward what is bad."""
    for name in names:
        if not 0 <= getattr(constants, name) < math.inf:
            raise InputError(
                f"{name} is {getattr(constants, name)}; a weight of the loss must be finite and not negative"
            )


def need_classes(name: str, classes: int) -> None:
    """Raise InputError where an objective that learns from labels would see a single one."""
    if classes < 2:
        raise InputError(
            f"objective {name}: the ID set has a single class; use simclr, which needs no labels"
        )
