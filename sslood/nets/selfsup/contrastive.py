"""What the contrastive objectives share: a projector without batch norm, and a temperature."""

import math
from dataclasses import dataclass
from typing import ClassVar

from sslood.core.errors import InputError
from sslood.nets.selfsup.objective import TwoViews


@dataclass(frozen=True)
class Constants:
    """Widths of the projector's layers (no batch norm), and the temperature."""

    projector: tuple[int, ...]
    temperature: float

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}; it must be above 0, and finite")


class Contrastive(TwoViews):
    """Two views whose projections attract and repel at a temperature. A subclass defines `loss`."""

    Constants = Constants
    batch_norm: ClassVar[bool] = False
