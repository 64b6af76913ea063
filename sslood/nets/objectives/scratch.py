"""No objective: the untrained encoder, control of every comparison and start of a classifier from scratch."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from sslood.nets.selfsup.objective import Objective


class Scratch(Objective):
    """Leaves the backbone as it was initialised."""

    trains: ClassVar[bool] = False

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a loss of 0 that depends on no weight."""
        return views[0].new_zeros(()), {}
