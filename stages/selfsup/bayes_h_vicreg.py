"""VICReg whose representation is a Gaussian."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from stages.selfsup.losses.vicreg import vicreg
from stages.selfsup.stochastic import Stochastic, StochasticConstants


@dataclass(frozen=True)
class Constants(StochasticConstants):
    """The constants of VICReg beside the Gaussian's; the factor does not scale the divergence."""

    invariance: float
    variance: float
    covariance: float
    scale: float


class BayesHVICReg(Stochastic):
    """Draws of the representation agree between the views, and every dimension spreads on its own."""

    Constants = Constants
    space: ClassVar[Literal["h", "z"]] = "h"

    def pair_loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.constants
        loss, terms = vicreg(z1, z2, c.invariance, c.variance, c.covariance)
        return c.scale * loss, terms
