"""SupCE: supervised cross-entropy under the views of the other objectives, the baseline of SupCon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.models.heads import build_head
from stages.selfsup.objective import Objective, need_classes
from stages.training.watch import spread


@dataclass(frozen=True)
class Constants:
    """There is nothing to set."""


class SupCE(Objective):
    """A linear classifier on the backbone, trained with it; the model file keeps it as the head."""

    Constants = Constants
    views: ClassVar[int] = 1

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        need_classes("supce", classes)
        super().__init__(backbone, constants, classes=classes)
        self.head = build_head(backbone.feature_dim, classes)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = backbone(views[0])
        logits = self.head(features).float()
        accuracy = (logits.argmax(1) == labels).float().mean()
        return cross_entropy(logits, labels), {"accuracy": accuracy, "spread": spread(features)}

    def exported(self) -> Mapping[str, nn.Module]:
        return {"head": self.head}

    def described(self) -> dict[str, Any]:
        return {"head_classes": list(range(self.head.out_features))}
