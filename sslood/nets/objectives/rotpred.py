"""RotPred, as OpenOOD names it: a classifier that also predicts quarter turns.

Hendrycks et al. 2019, "Using self-supervised learning can improve model robustness and uncertainty",
arXiv:1906.12340.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from sslood.core.settings import Settings, at_least
from sslood.data.images.rotations import rotations
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.heads import build_head
from sslood.nets.selfsup.classifier import Classifier
from sslood.nets.selfsup.losses.classification import cross_entropy_and_accuracy, rotation_loss
from sslood.nets.training.watch import spread


@dataclass(frozen=True)
class RotPredSettings(Settings):
    """Settings of RotPred."""

    weight: Annotated[
        float,
        at_least(0),
        "weight of the rotation's cross-entropy beside the classes' (paper 0.5, OpenOOD 1)",
    ]


class RotPred(Classifier):
    """Two linear heads on one backbone: the classes of upright images, and the turns of all four positions.

    The model file keeps both, so every detector of a classifier applies, and the joint score `rotpred`.
    """

    Settings = RotPredSettings

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        super().__init__(backbone, settings, classes=classes)
        self.rotation = build_head(backbone.feature_dim, 4)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = backbone(rotations(views[0]))
        cross, accuracy = cross_entropy_and_accuracy(self.head(features[: len(labels)]), labels)
        turned, _ = rotation_loss(self.rotation(features))
        terms = {"classes": cross, "rotation": turned, "accuracy": accuracy, "spread": spread(features)}
        return cross + self.settings.weight * turned, terms

    def saved_modules(self) -> Mapping[str, nn.Module]:
        return {**super().saved_modules(), "rotation": self.rotation}
