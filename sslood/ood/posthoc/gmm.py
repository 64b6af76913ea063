"""One Gaussian per class, each with its own covariance: likelihood under their mixture.

As in Mukhoti et al.: Deep Deterministic Uncertainty: A New Simple Baseline, CVPR 2023, arXiv:2102.11582.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.needs import LABELS, Need
from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.covariance import Moments, each_squared_distance, ridge_gaussians, stacked
from sslood.ood.geometry.radial import BETAS, MEANING, radial, radial_transform
from sslood.ood.kit.detector import Arrays, Tensors, check_counts, known_labels
from sslood.ood.kit.fitting import Streaming, Sums
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class GMMSettings(Settings):
    """Hyperparameters of the mixture."""

    ridge: Annotated[
        float | Auto,
        at_least(0),
        "share of its mean eigenvalue added to the diagonal of each class's covariance",
    ] = 1e-3
    beta: Annotated[float | Auto, at_least(0), MEANING] = 1.0


class GMM(Streaming):
    """-log sum_c pi_c N(z; mu_c, Sigma_c), pi_c the share of class c in ID train.

    z are the features divided by |z|^beta.
    """

    piece = 2**13  # so that merging costs little beside products of the few rows of a class
    reads = ("features",)
    gathered_by = ("beta",)
    needs = (LABELS, Need(per_class=2))
    Settings = GMMSettings
    space = {"ridge": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "beta": BETAS}  # our own

    def _gather(self, source: Outputs) -> Sums:
        features = radial_transform(self.settings.beta)(source.need("features"))
        labels = known_labels(source)
        sums: Sums = {}
        for k in range(source.need_classes()):
            moments = Moments.empty(1, features.shape[1])
            if (labels == k).any():
                moments.update(features[labels == k])
            sums[str(k)] = moments
        return sums

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        count = np.array([moments.counts[0] for moments in sums.values()])
        check_counts(count, source.name)
        fitted = [
            ridge_gaussians(moments, self.settings.ridge, f"{source.name}, class {k}")
            for k, moments in sums.items()
        ]
        log_dets = np.array([gaussians.log_det for gaussians in fitted])
        normalisers = log_dets + len(fitted[0].centre) * np.log(2 * np.pi)
        return {"log_weights": np.log(count / count.sum()), "normalisers": normalisers, **stacked(fitted)}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = radial(parts["features"], self.settings.beta)
        squares = each_squared_distance(rows, state) + state["normalisers"]
        return -torch.logsumexp(state["log_weights"] - 0.5 * squares, 1)
