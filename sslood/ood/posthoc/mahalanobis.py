"""Mahalanobis distance to the nearest class mean with one covariance for all (Lee et al. 2018, eq. 2)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.covariance import Gaussians, nearest_squared_distance, ridge_gaussians
from sslood.ood.kit.detector import check_counts
from sslood.ood.kit.fitting import Streaming, Sums, class_moments
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class MahalanobisSettings(Settings):
    ridge: Annotated[
        float | Auto, at_least(0), "share of its mean eigenvalue added to the diagonal of the covariance"
    ] = 1e-6


class Mahalanobis(Streaming):
    """min_c (z - mu_c)^T Sigma^-1 (z - mu_c), z the features, Sigma their covariance within classes."""

    reads = ("features",)
    Settings = MahalanobisSettings
    space = {"ridge": (1e-8, 1e-6, 1e-4, 1e-2, 1e-1)}

    def _gather(self, source: Outputs) -> Sums:
        return {"classes": class_moments(source)}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        check_counts(sums["classes"].counts, source.name)
        fitted = ridge_gaussians(sums["classes"], self.settings.ridge, source.name)
        return {"means": fitted.means, "root": fitted.root}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return nearest_squared_distance(outputs.features, Gaussians(**self.state))
