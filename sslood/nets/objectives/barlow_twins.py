"""Barlow Twins: the cross-correlation of two views driven to the identity.

Zbontar et al. 2021, "Barlow Twins: Self-supervised learning via redundancy reduction", arXiv:2103.03230,
eq. 1.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sslood.core.settings import at_least
from sslood.nets.selfsup.losses.barlow_twins import barlow_twins
from sslood.nets.selfsup.objective import ProjectorSettings, TwoViews


@dataclass(frozen=True)
class BarlowTwinsSettings(ProjectorSettings):
    """Settings of Barlow Twins."""

    off_diagonal: Annotated[float, at_least(0), "weight lambda of the off-diagonal correlations"]
    scale: Annotated[float, at_least(0), "factor of the whole loss"]


class BarlowTwins(TwoViews):
    """Every dimension agrees between the views, and no dimension repeats another."""

    Settings = BarlowTwinsSettings

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = barlow_twins(z1, z2, self.settings.off_diagonal)
        return self.settings.scale * loss, terms
