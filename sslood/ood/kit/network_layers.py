"""Several layers of a network as vectors, and detectors that add a score of each."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sslood.core.settings import autos
from sslood.ood.geometry.standard import CONSTANT
from sslood.ood.kit.network_choice import choose
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened
from sslood.ood.kit.outputs import chunks

LAYERS = 4  # the last ones: those that NAC and the ensembles of Mahalanobis distances read of a ResNet-18
DECAYS = (0.0, 0.25, 0.5, 1.0)
DECAY = "weight of a layer, relative to the next one; 0 = the features alone, 1 = all layers alike"
Rows = list[np.ndarray]
Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]


def merged(maps: Sequence[Tensor], features: Tensor) -> list[Tensor]:
    """Return the features [N, D] in the place of the last of the maps, and at most LAYERS of all."""
    return [*maps[:-1], features][-LAYERS:]


@torch.inference_mode()
def vectors(network: Network, batch: Tensor) -> list[Tensor]:
    """Return the spatial means [N, C] of each stage's last map and the features [N, D], float64."""
    layers = merged(*network.once("stages", batch, lambda x: network.need_stages()(x, {})))
    return [widened(layer if layer.ndim == 2 else layer.mean((2, 3))) for layer in layers]


def all_vectors(network: Network, images: np.ndarray, progress: Progress) -> Rows:
    """Return `vectors` of all images, computed once for all detectors that read those of a split."""
    unread = len(images)

    def count(size: int) -> None:
        nonlocal unread
        unread -= size
        progress(size)

    def compute(images: np.ndarray) -> Rows:
        parts = [[row.cpu() for row in vectors(network, batch)] for batch in network.batches(images, count)]
        return [torch.cat(layer).numpy() for layer in zip(*parts, strict=True)]

    found = network.once(f"vectors {id(images)}", images, compute)
    progress(unread)
    return found


class LayersDetector(NetworkDetector):
    """sum over layers of decay^(layers that follow) (s - mean) / std, mean and std of s on ID validation.

    A subclass gives the score s of one layer's vectors. The weights are ours; `decay` is one number, chosen
    on validation, where Lee et al. (2018, arXiv:1807.03888) fit one weight a layer to OOD images.
    """

    learns_from = ("train", "validation")
    space: ClassVar[Mapping[str, tuple[Any, ...]]] = {"decay": DECAYS}

    def __init__(self, settings: Any = None):
        super().__init__(settings)
        self._layers: tuple[Arrays, list[Tensors]] | None = None  # the state, and its tensors by layer

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        rows = {split: all_vectors(network, images[split], progress) for split in self.fitted_on}
        groups = self._groups(network, rows["train"][-1])
        learned: dict[Any, tuple[list[Arrays], dict[str, np.ndarray]]] = {}

        def layers(settings: Any) -> tuple[list[Arrays], dict[str, np.ndarray]]:
            """Return each layer's state and its scores of each split [layers, N], whatever the decay."""
            key = replace(settings, decay=0.0)
            if key not in learned:
                states = [self._fit_layer(layer, groups, settings) for layer in rows["train"]]
                each = {split: zip(rows[split], states, strict=True) for split in self.fitted_on[1:]}
                learned[key] = (
                    states,
                    {
                        split: np.stack([self._score_array(*pair, settings) for pair in pairs])
                        for split, pairs in each.items()
                    },
                )
            return learned[key]

        def summed(settings: Any, split: str) -> np.ndarray:
            scores = layers(settings)[1]
            return _summed(scores[split], *_standard(scores["validation"]), settings.decay)

        if autos(self.settings):
            self.settings, self.chosen = choose(self.settings, self.space, summed)
        states, scores = layers(self.settings)
        centre, spread = _standard(scores["validation"])
        arrays = {f"{place}.{key}": a for place, state in enumerate(states) for key, a in state.items()}
        return {**arrays, "centre": centre, "spread": spread}

    def _score(self, network: Network, batch: Tensor, state: Arrays) -> Tensor:
        if self._layers is None or self._layers[0] is not state:
            self._layers = state, _by_layer(state)
        rows = network.once("vectors", batch, lambda x: vectors(network, x))
        scores = [
            self._score_layer(layer.cpu(), part, self.settings).numpy()
            for layer, part in zip(rows, self._layers[1], strict=True)
        ]
        summed = _summed(np.stack(scores), state["centre"], state["spread"], self.settings.decay)
        return torch.from_numpy(summed)

    def _groups(self, network: Network, features: np.ndarray) -> np.ndarray:
        """Return a class of each ID train image as an index [N] without gaps; one for all unless told."""
        return np.zeros(len(features), np.int64)

    def _score_array(self, rows: np.ndarray, state: Arrays, settings: Any) -> np.ndarray:
        tensors = {key: torch.from_numpy(array) for key, array in state.items()}
        found = [self._score_layer(torch.from_numpy(piece), tensors, settings) for piece in chunks(rows)]
        return torch.cat(found).numpy()

    @abstractmethod
    def _fit_layer(self, rows: np.ndarray, groups: np.ndarray, settings: Any) -> Arrays:
        """Return what is learned from a layer's vectors of ID train [N, C] and the images' groups [N]."""

    @abstractmethod
    def _score_layer(self, rows: Tensor, state: Mapping[str, Tensor], settings: Any) -> Tensor:
        """Return the scores float64 [n] of a layer's vectors, float64 [n, C]."""


def _by_layer(state: Arrays) -> list[Tensors]:
    """Return the tensors of each layer from the arrays "<layer>.<name>" of a state."""
    parts: list[Tensors] = [{} for _ in state["centre"]]
    for key, array in state.items():
        place, dot, name = key.partition(".")
        if dot:
            parts[int(place)][name] = torch.from_numpy(array if array.flags.writeable else array.copy())
    return parts


def _standard(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean, standard deviation or, of scores equal up to rounding, 1) of each layer's [layers, N]."""
    spread = scores.std(axis=1)
    varies = spread > CONSTANT * np.abs(scores).max(axis=1)
    return scores.mean(axis=1), np.where(varies, spread, 1.0)


def _summed(scores: np.ndarray, centre: np.ndarray, spread: np.ndarray, decay: float) -> np.ndarray:
    """Return the `decayed` sum [N] of scores [layers, N] that are standardised first."""
    return decayed((scores - centre[:, None]) / spread[:, None], decay)


def decayed(scores: np.ndarray, decay: float) -> np.ndarray:
    """Return sum_l decay^(layers after l) scores_l: [N] from [layers, N]."""
    weights = np.float64(decay) ** np.arange(len(scores))[::-1]
    found: np.ndarray = (weights[:, None] * scores).sum(axis=0)
    return found
