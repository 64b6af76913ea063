"""Mahalanobis distance to the nearest class mean with one covariance for all classes.

Lee, Lee, Lee and Shin: A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv:1807.03888, eq. 2.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sslood.core.needs import Need
from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.covariance import ridge_gaussians, squared_distance
from sslood.ood.kit.detector import Arrays, Tensors, check_counts
from sslood.ood.kit.fitting import Streaming, Sums, class_moments
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class MahalanobisSettings(Settings):
    """Hyperparameters of the Mahalanobis distance."""

    ridge: Annotated[
        float | Auto, at_least(0), "share of the mean eigenvalue added to the covariance's diagonal"
    ] = 1e-6


class Mahalanobis(Streaming):
    """min_c (z - mu_c)^T Sigma^-1 (z - mu_c), z the features, Sigma their covariance within classes."""

    reads = ("features",)
    needs = (Need(classes=1, per_class=1, spare=1),)
    Settings = MahalanobisSettings
    space = {"ridge": (1e-8, 1e-6, 1e-4, 1e-2, 1e-1)}  # our own; the paper has no ridge

    def _gather(self, source: Outputs) -> Sums:
        return {"classes": class_moments(source)}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        check_counts(sums["classes"].counts, source.name)
        return dict(vars(ridge_gaussians(sums["classes"], self.settings.ridge, source.name)))

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return squared_distance(parts["features"], state["centre"], state["means"], state["whitening"])
