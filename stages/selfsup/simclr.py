"""SimCLR: NT-Xent, the normalised temperature-scaled cross-entropy (Chen et al. 2020, eq. 1)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stages.core.errors import InputError
from stages.selfsup.losses.contrastive import nt_xent
from stages.selfsup.objective import TwoViews


@dataclass(frozen=True)
class Constants:
    """Widths of the projector's layers (no batch norm), and the temperature."""

    projector: tuple[int, ...]
    temperature: float

    def __post_init__(self):
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}; it must be above 0")


class SimCLR(TwoViews):
    """Two views of an image attract, all other images of the batch repel."""

    Constants = Constants
    batch_norm: ClassVar[bool] = False

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return nt_xent(z1, z2, self.constants.temperature)
