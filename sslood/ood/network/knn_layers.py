"""kNN on several layers: their distances to the k-th nearest ID train image, standardised and summed.

Sun, Ming, Zhu and Li (2022, arXiv:2204.06507) take the features alone; the sum over layers is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from sslood.core.needs import Need, Needs
from sslood.core.rows import unit_rows
from sslood.core.settings import Auto, Settings, at_least, between
from sslood.ood.geometry.nearest.bank import directions, kth_distance
from sslood.ood.kit.network_layers import DECAY, DECAYS, Arrays, LayersDetector


@dataclass(frozen=True)
class KNNLayersSettings(Settings):
    """Hyperparameters of kNN on several layers."""

    k: Annotated[int | Auto, at_least(1), "rank of the neighbour whose distance counts, 1 = nearest"] = 50
    decay: Annotated[float | Auto, between(0, 1), DECAY] = 0.5


class KNNLayers(LayersDetector):
    """sum_l decay^l standardised distance to the k-th nearest unit vector of ID train; see `LayersDetector`.

    The vectors are the spatial means of the last map of each resolution, and the features. Memory grows with
    the ID train images.
    """

    reads = ("stages",)
    Settings = KNNLayersSettings
    space = {"k": (1, 10, 50), "decay": DECAYS}  # our own

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return () if self.settings.k == "auto" else (Need(images=self.settings.k),)

    def _fit_layer(self, rows: np.ndarray, groups: np.ndarray, settings: Any) -> Arrays:
        return {"bank": directions(rows)}

    def _score_layer(self, rows: Tensor, state: Mapping[str, Tensor], settings: Any) -> Tensor:
        return kth_distance(state["bank"], unit_rows(rows).float(), settings.k)
