"""Barlow Twins whose projection is a Gaussian."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from stages.selfsup.losses.barlow_twins import barlow_twins
from stages.selfsup.stochastic import Stochastic, StochasticConstants


@dataclass(frozen=True)
class Constants(StochasticConstants):
    """The constants of Barlow Twins beside the Gaussian's; the factor does not scale the divergence."""

    off_diagonal: float
    scale: float


class BayesZBarlowTwins(Stochastic):
    """Draws of the projection agree between the views, and their dimensions do not repeat each other."""

    Constants = Constants
    space: ClassVar[Literal["h", "z"]] = "z"

    def pair_loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = barlow_twins(z1, z2, self.constants.off_diagonal)
        return self.constants.scale * loss, terms
