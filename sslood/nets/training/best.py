"""The best epoch of a run by what was measured after it, whose weights are kept instead of the last one's."""

from typing import Any

import torch
from torch import Tensor, nn

from sslood.nets.training.ranks import from_first


class Best:
    """The weights of the epoch with the highest value, the latest of equals: it has trained the longest.

    Part of a run's state (`Task.state`), so that a resumed run keeps what an uninterrupted one does.
    `epoch` counts from 1; it is 0 before the first `offer`.
    """

    def __init__(self, modules: nn.Module):
        self.modules = modules
        self.epoch, self.value = 0, float("-inf")
        self._weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, value: float) -> None:
        """Keep a copy of the weights after epoch `epoch`, from 1, if none before had a higher value.

        Of several processes the first decides for all.
        """
        if from_first(lambda: value >= self.value):
            self.epoch, self.value = epoch, value
            self._weights = {name: part.detach().clone() for name, part in self.modules.state_dict().items()}

    def restore(self) -> None:
        """Load the kept weights into the modules; the last ones stay if none were offered."""
        if self._weights:
            self.modules.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, value and weights."""
        return {"epoch": self.epoch, "value": self.value, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        device = next((part.device for part in self.modules.state_dict().values()), torch.device("cpu"))
        self.epoch, self.value = state["epoch"], state["value"]
        self._weights = {name: part.to(device) for name, part in state["weights"].items()}
