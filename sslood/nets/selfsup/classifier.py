"""What objectives that learn from labels share: a linear head of the classes, which the model file keeps."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sslood.nets.networks.heads import build_head
from sslood.nets.selfsup.objective import Objective, need_classes


class Classifier(Objective):
    """A linear classifier on the backbone, trained with it on one view of each image.

    InputError where the ID set has a single class.
    """

    views: ClassVar[int] = 1

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        need_classes(type(self).__name__.lower(), classes)
        super().__init__(backbone, constants, classes=classes)
        self.head = build_head(backbone.feature_dim, classes)

    def exported(self) -> Mapping[str, nn.Module]:
        return {"head": self.head}

    def described(self) -> dict[str, Any]:
        return {"head_classes": list(range(self.head.out_features))}


def judged(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean cross-entropy in float32, accuracy) of logits [N, K] and labels [N]."""
    return cross_entropy(logits.float(), truth), (logits.argmax(1) == truth).float().mean()
