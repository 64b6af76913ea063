"""Relative Mahalanobis distance (Ren et al. 2021, eq. 2)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.covariance import Gaussians, nearest_squared_distance, ridge_gaussians
from sslood.ood.kit.detector import check_counts
from sslood.ood.kit.fitting import Streaming, Sums, class_moments
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class RmdsSettings(Settings):
    ridge: Annotated[
        float | Auto, at_least(0), "share of its mean eigenvalue added to the diagonal of each covariance"
    ] = 1e-6


class Rmds(Streaming):
    """Squared distance to the nearest class less that to one Gaussian of all classes; may be negative."""

    reads = ("features",)
    Settings = RmdsSettings
    space = {"ridge": (1e-8, 1e-6, 1e-4, 1e-2, 1e-1)}

    def _gather(self, source: Outputs) -> Sums:
        return {"classes": class_moments(source)}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        moments = sums["classes"]
        check_counts(moments.counts, source.name)
        classes, whole = (
            ridge_gaussians(part, self.settings.ridge, source.name) for part in (moments, moments.pooled())
        )
        return {"means": classes.means, "root": classes.root, "mean": whole.means, "whole_root": whole.root}

    def _score(self, outputs: Outputs) -> np.ndarray:
        classes = Gaussians(self.state["means"], self.state["root"])
        whole = Gaussians(self.state["mean"], self.state["whole_root"])
        return nearest_squared_distance(outputs.features, classes) - nearest_squared_distance(
            outputs.features, whole
        )
