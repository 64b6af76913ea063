"""Detectors that run the network themselves: the functions they may call, and one score per image.

They work on functions of images, whatever network is behind them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from sslood.core.batches import batches, normalised
from sslood.core.errors import InputError
from sslood.core.settings import Settings
from sslood.ood.kit.detector import NoSettings

BATCH = 256  # images at a time
Reads = Literal["gradients", "maps", "rotations"]
Progress = Callable[[int], object]
F = TypeVar("F")


@dataclass(frozen=True)
class Network:
    """Functions of normalised images x [N, C, H, W]; None for what the network does not have.

    gradients: x -> logits [N, K], differentiable in x.
    maps: x, read -> (read(map) of every layer's map [N, channels, h, w], logits [N, K]).
    rotations: x -> logits [N, 4] of the quarter turns by which x seems turned.
    mean and std: of each channel, in units of [0, 1]. dtype: of x. Layers must not mix the images of a batch.
    """

    mean: Sequence[float]
    std: Sequence[float]
    gradients: Callable[[Tensor], Tensor] | None = None
    maps: Callable[[Tensor, Callable[[Tensor], Tensor]], tuple[list[Tensor], Tensor]] | None = None
    rotations: Callable[[Tensor], Tensor] | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def need_gradients(self) -> Callable[[Tensor], Tensor]:
        """Return the function `gradients`; InputError if the network does not have it."""
        return _needed(self.gradients, "gradients")

    def need_maps(self) -> Callable[[Tensor, Callable[[Tensor], Tensor]], tuple[list[Tensor], Tensor]]:
        """Return the function `maps`; InputError if the network does not have it."""
        return _needed(self.maps, "maps")

    def need_rotations(self) -> Callable[[Tensor], Tensor]:
        """Return the function `rotations`; InputError if the network does not have it."""
        return _needed(self.rotations, "rotations")

    def batches(self, images: np.ndarray, progress: Progress = lambda count: None) -> Iterator[Tensor]:
        """Yield uint8 images [N, C, H, W] normalised, on the device, BATCH at a time.

        `progress` is called with the size of each batch once it is done.
        """
        stream = batches(images, BATCH)
        for batch in normalised(stream, self.mean, self.std, device=self.device, dtype=self.dtype):
            yield batch
            progress(len(batch))


def _needed(function: F | None, name: str) -> F:
    if function is None:
        raise InputError(f"the detector reads {name}, which this model does not have")
    return function


class NetworkDetector(ABC):
    """A score for images from a network; larger = more OOD.

    A subclass states what it `reads` of a `Network`, the splits it is `fitted_on` ("train", "validation"
    of the ID set; "tuning": outliers that share no image with a test set), its `Settings`, `_fit` and
    `_score`. `fit` replaces settings that are "auto" by values of `space`; `chosen` holds each choice with
    its source, `state` what was learned.
    """

    reads: ClassVar[tuple[Reads, ...]]
    fitted_on: tuple[str, ...] = ()
    Settings: ClassVar[type[Settings]] = NoSettings
    space: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init__(self, settings: Any = None):
        self.settings: Any = self.Settings() if settings is None else settings
        self.state: dict[str, np.ndarray] | None = None
        self.chosen: dict[str, Any] = {}

    def suits(self, network: Network) -> bool:
        """Whether the network has all functions that are read."""
        return not self.lacking(network)

    def lacking(self, network: Network) -> list[Reads]:
        """Return the functions that are read and that the network does not have."""
        return [part for part in self.reads if getattr(network, part) is None]

    def fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress = lambda count: None
    ) -> Self:
        """Learn from `images`: split -> uint8 [N, C, H, W]. InputError if the network lacks what is read."""
        self._check(network)
        with exact():
            self.state = self._fit(network, images, progress)
        return self

    def score(
        self, network: Network, images: np.ndarray, progress: Progress = lambda count: None
    ) -> np.ndarray:
        """Return float64 [N] of uint8 images [N, C, H, W], larger = more OOD. InputError before `fit`."""
        self._check(network)
        if self.state is None:
            raise InputError(f"{type(self).__name__} must be fitted before it scores")
        with exact():
            pieces = [
                self._score(network, batch, self.state).cpu().double()
                for batch in network.batches(images, progress)
            ]
        return torch.cat(pieces).numpy()

    def restore(self, state: dict[str, np.ndarray], chosen: dict[str, Any]) -> Self:
        """Become the fitted detector that had this `state` and `chosen`."""
        self.state, self.chosen = state, chosen
        return self

    def _check(self, network: Network) -> None:
        for part in self.lacking(network):
            raise InputError(f"{type(self).__name__} reads {part}, which this model does not have")

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        return {}

    @abstractmethod
    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor: ...


def exact() -> AbstractContextManager[None]:
    """Context of full float32: half precision flips signs of gradients and ties of extremes."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def widened(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU where its device has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()
