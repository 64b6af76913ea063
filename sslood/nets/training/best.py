"""The best epoch of a run by what was measured after it, whose weights are kept instead of the last one's."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class Best(nn.Module):
    """The weights of the best epoch so far, with its value and number: what a resumed run needs of it.

    Of equal values the later epoch is the best, since it has trained longer. A task puts it beside its model
    into `modules`, where checkpoints save it and the engine rounds it; `epoch` counts from 0, -1 is none.
    """

    value: Tensor
    epoch: Tensor

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = deepcopy(model).requires_grad_(False)
        self.register_buffer("value", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("epoch", torch.tensor(-1))

    @torch.no_grad()
    def offer(self, model: nn.Module, value: float, epoch: int) -> None:
        """Keep the weights of `model` if no `value` before was larger."""
        if value >= self.value.item():
            self.model.load_state_dict(model.state_dict())
            self.value.fill_(value)
            self.epoch.fill_(epoch)
