"""SupCE: supervised cross-entropy under the views of the other objectives, the baseline of SupCon."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sslood.nets.selfsup.classifier import Classifier, judged
from sslood.nets.training.watch import spread


@dataclass(frozen=True)
class Constants:
    """There is nothing to set."""


class SupCE(Classifier):
    """The classes alone."""

    Constants = Constants

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = backbone(views[0])
        loss, accuracy = judged(self.head(features), labels)
        return loss, {"accuracy": accuracy, "spread": spread(features)}
