"""One Gaussian a class, each with its own covariance: likelihood under their mixture."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stages.ood.covariance import Gaussians, fit_gaussians, nearest_squared_distance
from stages.ood.detector import Detector, class_labels
from stages.ood.outputs import Outputs


@dataclass(frozen=True)
class GmmSettings:
    """ridge: share of its mean eigenvalue added to the diagonal of each class's covariance."""

    ridge: float = 1e-3


class Gmm(Detector):
    """-log sum_c pi_c N(z; mu_c, Sigma_c), z the features, pi_c the share of the class in ID train."""

    reads = ("features",)
    Settings = GmmSettings
    space = {"ridge": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        labels = class_labels(source)
        count = np.bincount(labels)
        fitted = [
            fit_gaussians(
                source.features[labels == k],
                covariance="ridge",
                ridge=self.settings.ridge,
                where=f"{source.name}, class {k}",
            )
            for k in range(len(count))
        ]
        return {
            "log_weights": np.log(count / len(labels)),
            "means": np.stack([gaussians.means for gaussians in fitted]),
            "roots": np.stack([gaussians.root for gaussians in fitted]),
        }

    def _score(self, outputs: Outputs) -> np.ndarray:
        width = outputs.features.shape[1]
        logs = []
        state = self.state
        for weight, means, root in zip(state["log_weights"], state["means"], state["roots"], strict=True):
            distance = nearest_squared_distance(outputs.features, Gaussians(means, root))
            half_log_det = np.log(np.diag(root)).sum()
            logs.append(weight - 0.5 * (distance + width * np.log(2 * np.pi)) - half_log_det)
        return -logsumexp(np.stack(logs), axis=0)
