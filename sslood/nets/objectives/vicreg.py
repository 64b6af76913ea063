"""VICReg: variance, invariance and covariance.

Bardes et al. 2022, "VICReg: Variance-invariance-covariance regularization for self-supervised learning",
arXiv:2105.04906, eq. 1 to 6.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sslood.core.settings import at_least
from sslood.nets.selfsup.losses.vicreg import vicreg
from sslood.nets.selfsup.objective import ProjectorSettings, TwoViews, Weight


@dataclass(frozen=True)
class VICRegSettings(ProjectorSettings):
    """Settings of VICReg."""

    invariance: Weight
    variance: Weight
    covariance: Weight
    scale: Annotated[float, at_least(0), "factor of the whole loss"]


class VICReg(TwoViews):
    """Views agree, every dimension keeps its spread, and dimensions stay uncorrelated."""

    Settings = VICRegSettings

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.settings
        loss, terms = vicreg(z1, z2, s.invariance, s.variance, s.covariance)
        return s.scale * loss, terms
