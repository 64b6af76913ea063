"""BYOL: predict a momentum teacher's projection of the other view (Grill et al. 2020, eq. 2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from sslood.core.errors import InputError
from sslood.nets.networks.heads import build_projector
from sslood.nets.selfsup.objective import Objective
from sslood.nets.selfsup.teacher import Teacher, teacher_momentum
from sslood.nets.training.watch import spread


def regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Return mean_i |p_i - y_i|^2 = 2 - 2 cos(p_i, y_i) of the vectors [N, D] scaled to length 1."""
    return 2 - 2 * cosine_similarity(prediction, target, dim=1).mean()


def byol(p1: Tensor, p2: Tensor, y1: Tensor, y2: Tensor) -> Tensor:
    """Return the loss of predictions p and the teacher's projections y [N, D], each of the other view."""
    return regression(p1, y2) + regression(p2, y1)


@dataclass(frozen=True)
class Constants:
    """Widths of projector and predictor, and the teacher's momentum at the start (a cosine leads to 1)."""

    projector: tuple[int, ...]
    predictor: tuple[int, ...]
    ema: float

    def __post_init__(self):
        if not 0 <= self.ema <= 1:
            raise InputError(f"ema is {self.ema}; the momentum of the teacher lies in [0, 1]")
        if self.projector and self.predictor and self.projector[-1] != self.predictor[-1]:
            raise InputError(
                f"predictor ends with {self.predictor[-1]}, the projector with {self.projector[-1]}; "
                "one predicts the other: use the same last width"
            )


class BYOL(Objective):
    """No negatives: predictor and moving average keep the embeddings apart."""

    Constants = Constants

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__(backbone, constants, classes=classes)
        self.projector = build_projector(backbone.feature_dim, constants.projector)
        self.predictor = build_projector(constants.projector[-1], constants.predictor, key="predictor")
        self.teacher = Teacher(backbone, self.projector)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = [self.projector(backbone(view)) for view in views]
        predictions = [self.predictor(each).float() for each in z]
        targets = [self.teacher(view).float() for view in views]
        with torch.autocast(z[0].device.type, enabled=False):
            return byol(*predictions, *targets), {"spread": spread(z[0])}

    def after_step(self, backbone: nn.Module, step: int, steps: int) -> None:
        momentum = teacher_momentum(self.constants.ema, step, steps)
        self.teacher.follow(backbone, self.projector, momentum=momentum)

    def exported(self) -> Mapping[str, nn.Module]:
        return {"projector": self.projector}
