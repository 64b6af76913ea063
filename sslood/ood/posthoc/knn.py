"""Distance to the k-th nearest ID train image.

Sun, Ming, Zhu and Li: Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, arXiv:2204.06507.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sslood.core.needs import Need, Needs
from sslood.core.rows import unit_rows
from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.nearest.bank import directions, kth_distance
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Collected, Streaming, Sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class KNNSettings(Settings):
    """Hyperparameters of kNN."""

    k: Annotated[
        int | Auto, at_least(1), "rank of the neighbour whose distance is the score, 1 = nearest"
    ] = 50


class KNN(Streaming):
    """Euclidean distance to the k-th nearest of the L2-normalised ID train features, in [0, 2].

    Batches and shards add to the bank, whose memory is N * D * 4 bytes.
    """

    piece = WHOLE  # one array, without a copy of the parts
    reads = ("features",)
    searches_bank = True
    Settings = KNNSettings
    space = {"k": (1, 5, 10, 20, 50, 100, 200)}  # the paper's sweep for CIFAR, its larger values left out

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return (Need(images=self.settings.k),)

    def _gather(self, source: Outputs) -> Sums:
        return {"bank": Collected((directions(source.need("features")),))}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        return {"bank": sums["bank"].all}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return kth_distance(state["bank"], unit_rows(parts["features"]).float(), self.settings.k)
