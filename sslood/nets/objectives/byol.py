"""BYOL: predict a momentum teacher's projection of the other view.

Grill et al. 2020, "Bootstrap your own latent: A new approach to self-supervised learning", arXiv:2006.07733,
eq. 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from sslood.core.errors import InputError
from sslood.core.precision import at_least_float32
from sslood.core.settings import at_least, between
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.heads import build_projector
from sslood.nets.selfsup.objective import Objective, ProjectorSettings, need_widths
from sslood.nets.selfsup.teacher import Teacher, teacher_momentum
from sslood.nets.training.watch import spread


def regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Return mean_i |p_i - y_i|^2 = 2 - 2 cos(p_i, y_i) of the vectors [N, D] scaled to length 1."""
    return 2 - 2 * cosine_similarity(prediction, target, dim=1).mean()


def byol(p1: Tensor, p2: Tensor, y1: Tensor, y2: Tensor) -> Tensor:
    """Return the loss of predictions p and the teacher's projections y [N, D], each of the other view."""
    return regression(p1, y2) + regression(p2, y1)


@dataclass(frozen=True)
class BYOLSettings(ProjectorSettings):
    """Settings of BYOL."""

    predictor: Annotated[tuple[int, ...], at_least(1), "widths of the predictor, on the projection"]
    ema: Annotated[float, between(0, 1), "momentum of the teacher at the start; a cosine leads it to 1"]

    def _check(self) -> None:
        super()._check()
        need_widths("predictor", self.predictor)
        if self.projector[-1] != self.predictor[-1]:
            raise InputError(
                f"predictor ends with {self.predictor[-1]}, the projector with {self.projector[-1]}; "
                "one predicts the other: use the same last width"
            )


class BYOL(Objective):
    """No negatives: predictor and moving average keep the embeddings apart."""

    Settings = BYOLSettings

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        super().__init__(backbone, settings, classes=classes)
        self.projector = build_projector(backbone.feature_dim, settings.projector)
        self.predictor = build_projector(settings.projector[-1], settings.predictor, key="predictor")
        self.teacher = Teacher(backbone, self.projector)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = [self.projector(backbone(view)) for view in views]
        predictions = [at_least_float32(self.predictor(each)) for each in z]
        targets = [at_least_float32(self.teacher(view)) for view in views]
        with torch.autocast(z[0].device.type, enabled=False):
            (p1, p2), (y1, y2) = predictions, targets
            return byol(p1, p2, y1, y2), {"spread": spread(z[0])}

    def prepared(self, backbone: nn.Module) -> None:
        self.teacher.copy(backbone, self.projector)

    def after_step(self, backbone: nn.Module, step: int, steps: int) -> None:
        momentum = teacher_momentum(self.settings.ema, step, steps)
        self.teacher.follow(backbone, self.projector, momentum=momentum)

    def saved_modules(self) -> Mapping[str, nn.Module]:
        return {"projector": self.projector}
