"""The base of objectives that learn from labels: a linear head, which the model file keeps."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from sslood.core.needs import CLASSIFIED, Needs
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.heads import build_head
from sslood.nets.selfsup.objective import Objective, need_classes


class Classifier(Objective):
    """A linear classifier on the backbone, trained with it on one view of each image.

    LeftOut where the ID set has a single class.
    """

    views: ClassVar[int] = 1
    needs: ClassVar[Needs] = (CLASSIFIED,)

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        need_classes(type(self).__name__.lower(), classes)
        super().__init__(backbone, settings, classes=classes)
        self.head = build_head(backbone.feature_dim, classes)

    def saved_modules(self) -> Mapping[str, nn.Module]:
        return {"head": self.head}

    def metadata(self) -> dict[str, Any]:
        return {"head_classes": list(range(self.head.out_features))}
