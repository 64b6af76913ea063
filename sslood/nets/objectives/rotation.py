"""Rotation prediction: tell by how many quarter turns an image is turned (Gidaris et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sslood.nets.networks.heads import build_head
from sslood.nets.selfsup.objective import Objective
from sslood.nets.selfsup.turns import rotations, turn_loss
from sslood.nets.training.watch import spread


@dataclass(frozen=True)
class Constants:
    """There is nothing to set."""


class Rotation(Objective):
    """One view of each image in all four positions, and a linear classifier of the position."""

    Constants = Constants
    views: ClassVar[int] = 1

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__(backbone, constants, classes=classes)
        self.head = build_head(backbone.feature_dim, 4)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = backbone(rotations(views[0]))
        loss, accuracy = turn_loss(self.head(features))
        return loss, {"accuracy": accuracy, "spread": spread(features)}

    def exported(self) -> Mapping[str, nn.Module]:
        return {"rotation": self.head}
