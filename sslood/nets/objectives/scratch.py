"""No objective: the untrained encoder, control of every comparison and start of a classifier from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sslood.nets.selfsup.objective import Objective


@dataclass(frozen=True)
class Constants:
    """There is nothing to set."""


class Scratch(Objective):
    """Leaves the backbone as it was initialised."""

    Constants = Constants
    trains: ClassVar[bool] = False

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a loss of 0 that no weight has a part in."""
        return views[0].new_zeros(()), {}
