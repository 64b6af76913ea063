"""One Gaussian a class, each with its own covariance: likelihood under their mixture."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.special import logsumexp

from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.covariance import Gaussians, Moments, nearest_squared_distance, ridge_gaussians
from sslood.ood.kit.detector import check_counts, known_labels
from sslood.ood.kit.fitting import Streaming, Sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class GmmSettings(Settings):
    ridge: Annotated[
        float | Auto,
        at_least(0),
        "share of its mean eigenvalue added to each covariance's diagonal",
    ] = 1e-3


class Gmm(Streaming):
    """-log sum_c pi_c N(z; mu_c, Sigma_c), z the features, pi_c the share of the class in ID train."""

    piece = 2**15  # so that merging costs little beside products of the few rows of a class
    reads = ("features",)
    Settings = GmmSettings
    space = {"ridge": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}

    def _gather(self, source: Outputs) -> Sums:
        labels, sums = known_labels(source), {}
        for k in range(source.classes):
            sums[str(k)] = Moments.empty(1, source.features.shape[1])
            if (labels == k).any():
                sums[str(k)].update(source.features[labels == k])
        return sums

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        count = np.array([moments.counts[0] for moments in sums.values()])
        check_counts(count, source.name)
        fitted = [
            ridge_gaussians(moments, self.settings.ridge, f"{source.name}, class {k}")
            for k, moments in sums.items()
        ]
        return {
            "log_weights": np.log(count / count.sum()),
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
