"""Residual: length of the features outside the principal directions of ID train (Wang et al. 2022)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.subspace import dimensions, eigenvectors, lengths_along
from sslood.ood.kit.fitting import Streaming, Sums, all_moments
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class ResidualSettings(Settings):
    share: Annotated[float | Auto, inside(0, 1), "share of the feature dimensions that are principal"] = 0.5


class Residual(Streaming):
    """|R^T (z - mean)|, R the directions of least variance on ID train.

    About the mean of ID train, where ViM's authors take the origin of the classifier: so an encoder
    without a head has it too. It is the reconstruction error of a PCA.
    """

    reads = ("features",)
    Settings = ResidualSettings
    space = {"share": (0.1, 0.25, 0.5, 0.75, 0.9)}

    def _gather(self, source: Outputs) -> Sums:
        return {"all": all_moments(source)}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        mean = sums["all"].means[0]
        kept = dimensions(self.settings.share, len(mean))
        return {"mean": mean, "basis": eigenvectors(sums["all"].covariance)[:, kept:]}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return lengths_along(outputs.features, self.state["mean"], self.state["basis"])
