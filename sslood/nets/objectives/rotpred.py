"""RotPred, as OpenOOD names it: a classifier that also tells quarter turns (Hendrycks et al. 2019)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sslood.nets.networks.heads import build_head
from sslood.nets.selfsup.classifier import Classifier, judged
from sslood.nets.selfsup.objective import need_weights
from sslood.nets.selfsup.turns import rotations, turn_loss
from sslood.nets.training.watch import spread


@dataclass(frozen=True)
class Constants:
    """The weight of the rotation's cross-entropy beside the classes' (the paper has 0.5, OpenOOD 1)."""

    weight: float

    def __post_init__(self):
        need_weights(self, "weight")


class RotPred(Classifier):
    """Two linear heads on one backbone: the classes of upright images, and the turns of all four positions.

    The model file keeps both, so every detector of a classifier applies, and the joint score `rotpred`.
    """

    Constants = Constants

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__(backbone, constants, classes=classes)
        self.rotation = build_head(backbone.feature_dim, 4)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = backbone(rotations(views[0]))
        cross, accuracy = judged(self.head(features[: len(labels)]), labels)
        turned, _ = turn_loss(self.rotation(features))
        terms = {"classes": cross, "rotation": turned, "accuracy": accuracy, "spread": spread(features)}
        return cross + self.constants.weight * turned, terms

    def exported(self) -> Mapping[str, nn.Module]:
        return {**super().exported(), "rotation": self.rotation}
