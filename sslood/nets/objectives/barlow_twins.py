"""Barlow Twins: the cross-correlation of two views driven to the identity (Zbontar et al. 2021, eq. 1)."""

from dataclasses import dataclass

from torch import Tensor

from sslood.nets.losses.barlow_twins import barlow_twins
from sslood.nets.selfsup.objective import TwoViews, need_weights


@dataclass(frozen=True)
class Constants:
    """Widths of the projector, the weight lambda of the off-diagonal, and a factor on the whole loss."""

    projector: tuple[int, ...]
    off_diagonal: float
    scale: float

    def __post_init__(self):
        need_weights(self, "off_diagonal", "scale")


class BarlowTwins(TwoViews):
    """Every dimension agrees between the views and tells what no other dimension does."""

    Constants = Constants

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = barlow_twins(z1, z2, self.constants.off_diagonal)
        return self.constants.scale * loss, terms
