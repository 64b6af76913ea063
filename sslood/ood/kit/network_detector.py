"""Detectors that run the network themselves: the functions they may call, and one score per image.

They work on functions of images, whatever network is behind them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from sslood.core.batches import batches, normalised
from sslood.core.errors import InputError
from sslood.core.needs import Needs, check_needs
from sslood.core.settings import Settings, autos
from sslood.ood.kit.detector import NoSettings

BATCH = 256  # images at a time
Reads = Literal["gradients", "maps", "rotations", "stages", "head"]
Progress = Callable[[int], object]
Forward = Callable[[Tensor], Tensor]
Changes = Mapping[int, Forward]
F = TypeVar("F")
T = TypeVar("T")


@dataclass(frozen=True)
class Network:
    """Functions of normalised images x [N, C, H, W]; None for what the network does not have.

    gradients: x -> logits [N, K], differentiable in x.
    maps: x, read -> (read(map) of every layer's map [N, channels, h, w], logits [N, K]).
    rotations: x -> logits [N, 4] of the quarter turns by which x seems turned.
    stages: x, changes -> (the last map [N, channels, h, w] of each resolution, first to last; features
    [N, D]), differentiable in x; changes {place from the end, -1 the last: function} replace these maps.
    head: features [N, D] -> logits [N, K]. dropped: x, draw -> logits of a network that lost what its dropout
    layers drop in this draw, the same of all images; None if it has no such layer.
    mean and std: of each channel, in units of [0, 1]. dtype: of x. Layers must not mix the images of a batch.
    """

    mean: Sequence[float]
    std: Sequence[float]
    gradients: Forward | None = None
    maps: Callable[[Tensor, Forward], tuple[list[Tensor], Tensor]] | None = None
    rotations: Forward | None = None
    stages: Callable[[Tensor, Changes], tuple[list[Tensor], Tensor]] | None = None
    head: Forward | None = None
    dropped: Callable[[Tensor, int], Tensor] | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    _known: dict[str, tuple[object, Any]] = field(default_factory=dict, init=False, compare=False)

    def need_gradients(self) -> Forward:
        """Return the function `gradients`; InputError if the network does not have it."""
        return _needed(self.gradients, "gradients")

    def need_maps(self) -> Callable[[Tensor, Forward], tuple[list[Tensor], Tensor]]:
        """Return the function `maps`; InputError if the network does not have it."""
        return _needed(self.maps, "maps")

    def need_rotations(self) -> Forward:
        """Return the function `rotations`; InputError if the network does not have it."""
        return _needed(self.rotations, "rotations")

    def need_stages(self) -> Callable[[Tensor, Changes], tuple[list[Tensor], Tensor]]:
        """Return the function `stages`; InputError if the network does not have it."""
        return _needed(self.stages, "stages")

    def need_head(self) -> Forward:
        """Return the function `head`; InputError if the network does not have it."""
        return _needed(self.head, "head")

    def once(self, what: str, images: F, compute: Callable[[F], T]) -> T:
        """Return compute(images), or what it was when `what` was last asked of the very same object.

        So detectors that read the same of a batch, or of all images of a split, share the passes. What was
        found for other images is forgotten.
        """
        known = self._known.get(what)
        if known is None or known[0] is not images:
            known = self._known[what] = (images, compute(images))
        return known[1]

    def forget(self) -> None:
        """Free what `once` keeps."""
        self._known.clear()

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

    A subclass states what it `reads` of a `Network`, the splits it `learns_from` ("train", "validation" of
    the ID set), its `Settings`, `_fit` and `_score`. `fit` replaces settings that are "auto" by values of
    `space`, chosen on "validation" and "tuning" (outliers that share no image with a test set); `chosen`
    holds each choice with its source, `state` what was learned. fitted_on: all splits that `fit` reads.
    """

    reads: ClassVar[tuple[Reads, ...]]
    needs: Needs = ()  # of ID train
    learns_from: ClassVar[tuple[str, ...]] = ()
    Settings: ClassVar[type[Settings]] = NoSettings
    space: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init__(self, settings: Any = None):
        self.settings: Any = self.Settings() if settings is None else settings
        chooses = ("validation", "tuning") if autos(self.settings) else ()
        self.fitted_on = tuple(dict.fromkeys((*self.learns_from, *chooses)))
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
        """Learn from `images`: split -> uint8 [N, C, H, W].

        InputError if the network lacks what is read, LeftOut if ID train misses one of `needs`.
        """
        self._check(network)
        check_needs(self.needs, None, len(images.get("train", ())), f"{type(self).__name__} ")
        with exact():
            self.state = self._fit(network, images, progress)
        return self

    def score(
        self, network: Network, images: np.ndarray, progress: Progress = lambda count: None
    ) -> np.ndarray:
        """Return float64 [N] of uint8 images [N, C, H, W], larger = more OOD. InputError before `fit`."""
        return score_together({"": self}, network, images, progress)[""]

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


def score_together(
    detectors: Mapping[str, NetworkDetector],
    network: Network,
    images: np.ndarray,
    progress: Progress = lambda count: None,
) -> dict[str, np.ndarray]:
    """Return the `score` of each detector, batch by batch, so that they share what they read of a batch.

    `progress` is called with the size of each batch, once a detector.
    """
    pieces: dict[str, list[Tensor]] = {name: [] for name in detectors}
    for detector in detectors.values():
        detector._check(network)
        if detector.state is None:
            raise InputError(f"{type(detector).__name__} must be fitted before it scores")
    network.forget()
    with exact():
        for batch in network.batches(images):
            for name, detector in detectors.items():
                found = detector._score(network, batch, detector.state or {})
                pieces[name].append(found.cpu().double())
                progress(len(batch))
    return {name: torch.cat(found).numpy() for name, found in pieces.items()}


def exact() -> AbstractContextManager[None]:
    """Context of full float32: half precision flips signs of gradients and ties of extremes."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def widened(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU where its device has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()
