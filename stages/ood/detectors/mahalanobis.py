"""Mahalanobis distance to the nearest class mean with one covariance for all (Lee et al. 2018, eq. 2)."""

from dataclasses import dataclass

import numpy as np

from stages.ood.covariance import Gaussians, fit_gaussians, nearest_squared_distance
from stages.ood.detector import Detector, class_labels
from stages.ood.outputs import Outputs


@dataclass(frozen=True)
class MahalanobisSettings:
    """ridge: share of the mean eigenvalue added to the covariance's diagonal."""

    ridge: float = 1e-6


class Mahalanobis(Detector):
    """min_c (z - mu_c)^T Sigma^-1 (z - mu_c), z the features, Sigma their covariance within classes."""

    reads = ("features",)
    Settings = MahalanobisSettings
    space = {"ridge": (1e-8, 1e-6, 1e-4, 1e-2, 1e-1)}

    def _fit(self, train: Outputs) -> dict[str, np.ndarray]:
        fitted = fit_gaussians(
            train.features,
            class_labels(train),
            covariance="ridge",
            ridge=self.settings.ridge,
            where=train.name,
        )
        return {"means": fitted.means, "root": fitted.root}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return nearest_squared_distance(outputs.features, Gaussians(**self.state))
