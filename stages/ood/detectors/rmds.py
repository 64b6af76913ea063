"""Relative Mahalanobis distance (Ren et al. 2021, eq. 2)."""

from dataclasses import dataclass

import numpy as np

from stages.ood.covariance import Gaussians, fit_gaussians, nearest_squared_distance
from stages.ood.detector import Detector, class_labels
from stages.ood.outputs import Outputs


@dataclass(frozen=True)
class RmdsSettings:
    """ridge: share of the mean eigenvalue added to the diagonal of both covariances."""

    ridge: float = 1e-6


class Rmds(Detector):
    """Squared distance to the nearest class less that to one Gaussian of all classes; may be negative."""

    reads = ("features",)
    Settings = RmdsSettings
    space = {"ridge": (1e-8, 1e-6, 1e-4, 1e-2, 1e-1)}

    def _fit(self, train: Outputs) -> dict[str, np.ndarray]:
        settings = {"covariance": "ridge", "ridge": self.settings.ridge, "where": train.name}
        classes = fit_gaussians(train.features, class_labels(train), **settings)
        whole = fit_gaussians(train.features, **settings)
        return {"means": classes.means, "root": classes.root, "mean": whole.means, "whole_root": whole.root}

    def _score(self, outputs: Outputs) -> np.ndarray:
        classes = Gaussians(self.state["means"], self.state["root"])
        whole = Gaussians(self.state["mean"], self.state["whole_root"])
        return nearest_squared_distance(outputs.features, classes) - nearest_squared_distance(
            outputs.features, whole
        )
