"""Residual: length of the features outside the principal directions of ID train.

Wang, Li, Feng and Zhang: ViM: Out-Of-Distribution with Virtual-logit Matching, CVPR 2022, arXiv:2203.10807.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import Tensor

from sslood.core.settings import Auto, Settings, at_least, inside
from sslood.ood.geometry.radial import BETAS, MEANING, radial, radial_transform
from sslood.ood.geometry.subspace import dimensions, directions, lengths_along
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import Streaming, Sums, all_moments
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class ResidualSettings(Settings):
    """Hyperparameters of the residual."""

    share: Annotated[
        float | Auto, inside(0, 1), "share of the feature dimensions that count as principal"
    ] = 0.5
    beta: Annotated[float | Auto, at_least(0), MEANING] = 1.0


class Residual(Streaming):
    """|R^T (z - mean)|, R the directions of least variance on ID train, z divided by |z|^beta.

    About the mean of ID train, where ViM's authors take the origin of the classifier: so an encoder
    without a head has it too. It is the reconstruction error of a PCA.
    """

    reads = ("features",)
    gathered_by = ("beta",)
    Settings = ResidualSettings
    space = {
        "share": (0.1, 0.25, 0.5, 0.75, 0.9),
        "beta": BETAS,
    }  # our own, about the half that ViM's authors keep

    def _gather(self, source: Outputs) -> Sums:
        return {"all": all_moments(source, radial_transform(self.settings.beta))}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        mean, moments = sums["all"].means[0], sums["all"].covariance
        count = dimensions(self.settings.share, len(mean))
        _, basis = directions(moments, count, float(mean @ mean + np.trace(moments)))
        return {"mean": mean, "basis": basis}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return lengths_along(radial(parts["features"], self.settings.beta), state["mean"], state["basis"])
