"""Rotation prediction: classify by how many quarter turns an image is turned.

Gidaris et al. 2018, "Unsupervised representation learning by predicting image rotations", arXiv:1803.07728.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from sslood.data.images.rotations import rotations
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.heads import build_head
from sslood.nets.selfsup.losses.classification import rotation_loss
from sslood.nets.selfsup.objective import Objective
from sslood.nets.training.watch import spread


class Rotation(Objective):
    """One view of each image in all four positions, and a linear classifier of the position."""

    views: ClassVar[int] = 1

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        super().__init__(backbone, settings, classes=classes)
        self.head = build_head(backbone.feature_dim, 4)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = backbone(rotations(views[0]))
        loss, accuracy = rotation_loss(self.head(features))
        return loss, {"accuracy": accuracy, "spread": spread(features)}

    def saved_modules(self) -> Mapping[str, nn.Module]:
        return {"rotation": self.head}
