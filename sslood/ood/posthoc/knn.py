"""Distance to the k-th nearest ID train image (Sun et al. 2022)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.directions import directions
from sslood.ood.geometry.neighbours import kth_distance
from sslood.ood.kit.fitting import Rows, Streaming, Sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class KnnSettings(Settings):
    k: Annotated[int | Auto, at_least(1), "rank of the neighbour whose distance is the score"] = 50


class Knn(Streaming):
    """Euclidean distance to the k-th nearest of the L2-normalised ID train features, in [0, 2].

    Batches and shards add to the bank, of which the memory is N * D * 4 bytes.
    """

    reads = ("features",)
    Settings = KnnSettings
    space = {"k": (1, 5, 10, 20, 50, 100, 200)}

    piece = 2**62  # all at once: one array, without a copy of the parts

    def _gather(self, source: Outputs) -> Sums:
        return {"bank": Rows((directions(source.features),))}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        return {"bank": sums["bank"].all}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return kth_distance(self.state["bank"], directions(outputs.features), self.settings.k, self.device)
