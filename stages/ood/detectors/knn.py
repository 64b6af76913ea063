"""Distance to the k-th nearest ID train image (Sun et al. 2022)."""

from dataclasses import dataclass

import numpy as np

from stages.ood.detector import Detector, positive
from stages.ood.directions import directions
from stages.ood.neighbours import kth_distance
from stages.ood.outputs import Outputs


@dataclass(frozen=True)
class KnnSettings:
    """k: the neighbour whose distance counts, 1 the nearest."""

    k: int = 50

    def __post_init__(self):
        positive("knn", k=self.k)


class Knn(Detector):
    """Euclidean distance to the k-th nearest of the L2-normalised ID train features, in [0, 2]."""

    reads = ("features",)
    Settings = KnnSettings
    space = {"k": (1, 5, 10, 20, 50, 100, 200)}

    def _fit(self, train: Outputs) -> dict[str, np.ndarray]:
        return {"bank": directions(train.features)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return kth_distance(self.state["bank"], directions(outputs.features), self.settings.k, self.device)
