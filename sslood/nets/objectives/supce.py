"""SupCE: supervised cross-entropy under the views of the other objectives, the baseline of SupCon."""

from collections.abc import Sequence

from torch import Tensor, nn

from sslood.nets.selfsup.classifier import Classifier
from sslood.nets.selfsup.losses.classification import cross_entropy_and_accuracy
from sslood.nets.training.watch import spread


class SupCE(Classifier):
    """The classes alone."""

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = backbone(views[0])
        loss, accuracy = cross_entropy_and_accuracy(self.head(features), labels)
        return loss, {"accuracy": accuracy, "spread": spread(features)}
