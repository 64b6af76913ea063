"""VICReg: variance, invariance, covariance (Bardes et al. 2022, eq. 1 to 6)."""

from dataclasses import dataclass

from torch import Tensor

from sslood.nets.losses.vicreg import vicreg
from sslood.nets.selfsup.objective import TwoViews, need_weights


@dataclass(frozen=True)
class Constants:
    """Widths of the projector and the weights of the three terms, and a factor on the whole loss."""

    projector: tuple[int, ...]
    invariance: float
    variance: float
    covariance: float
    scale: float

    def __post_init__(self):
        need_weights(self, "invariance", "variance", "covariance", "scale")


class VICReg(TwoViews):
    """Views agree, every dimension keeps its spread, and dimensions stay uncorrelated."""

    Constants = Constants

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.constants
        loss, terms = vicreg(z1, z2, c.invariance, c.variance, c.covariance)
        return c.scale * loss, terms
