"""RMDS: relative Mahalanobis distance.

Ren et al.: A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection, 2021, arXiv:2106.09022, eq.
2.
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
class RMDSSettings(Settings):
    """Hyperparameters of RMDS."""

    ridge: Annotated[
        float | Auto, at_least(0), "share of the mean eigenvalue added to the diagonal of both covariances"
    ] = 1e-6


class RMDS(Streaming):
    """Squared distance to the nearest class less that to one Gaussian of all classes; may be negative."""

    reads = ("features",)
    needs = (Need(classes=2, per_class=1, spare=1),)
    Settings = RMDSSettings
    space = {"ridge": (1e-8, 1e-6, 1e-4, 1e-2, 1e-1)}  # our own; the paper has no ridge

    def _gather(self, source: Outputs) -> Sums:
        return {"classes": class_moments(source)}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        moments, ridge = sums["classes"], self.settings.ridge
        check_counts(moments.counts, source.name)
        classes = vars(ridge_gaussians(moments, ridge, source.name))
        whole = vars(ridge_gaussians(moments.pooled(), ridge, source.name))
        return {**classes, **{f"whole_{key}": array for key, array in whole.items()}}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        names = ("centre", "means", "whitening")
        nearest = squared_distance(parts["features"], *(state[name] for name in names))
        return nearest - squared_distance(parts["features"], *(state[f"whole_{name}"] for name in names))
