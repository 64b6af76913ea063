"""NAC: whether the neurons of several layers are in states that ID train images brought them into.

Liu, Tian, Li, Ma and Wang: Neuron Activation Coverage: Rethinking Out-of-distribution Detection and
Generalization, ICLR 2024, arXiv:2306.02879 (NAC-UE). Bins and pooling as in the authors' code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.settings import Auto, Settings, above, at_least, autos, between
from sslood.ood.kit.network_choice import choose
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened
from sslood.ood.kit.network_layers import DECAY, DECAYS, Arrays, decayed, merged

BASE = 1000.0  # of the logarithm that spaces the bins, as in the authors' code


@dataclass(frozen=True)
class NACSettings(Settings):
    """Hyperparameters of NAC, the same of all layers."""

    images: Annotated[int, at_least(1), "ID train images, evenly spaced, whose states are counted"] = 1000
    alpha: Annotated[float | Auto, above(0), "steepness of the sigmoid, over a layer's mean |z g|"] = "auto"
    bins: Annotated[int, at_least(4), "M of the paper, even: a neuron has M - 2 bins"] = 50
    fill: Annotated[int | Auto, at_least(1), "images in a bin from which on it counts as covered"] = "auto"
    decay: Annotated[float | Auto, between(0, 1), DECAY] = "auto"

    def _check(self) -> None:
        if self.bins % 2:
            raise InputError(f"bins must be even, found {self.bins}")


class NAC(NetworkDetector):
    """-sum over layers of decay^(layers that follow) mean over neurons of min(count / fill, 1).

    count is that of ID train images whose state of the neuron falls into the same bin.

    The state of a neuron is sigmoid(alpha z g / m), z its value and g the gradient of KL(uniform || p) in it,
    each summed over the map; m is the mean |z g| of the layer on the counted images. The layers are the last
    maps of the resolutions, at most four, with the features in place of the last. The paper has decay 1, and
    gives each layer an alpha (0.001 to 5000), bins and fill of its own, which are found on OOD images and
    weigh the layers too; m and decay, ours, make one of each do.
    """

    reads = ("stages", "head")
    learns_from = ("train",)
    Settings = NACSettings
    space = {"alpha": (0.3, 1.0, 3.0, 10.0), "fill": (5, 20, 50), "decay": DECAYS}  # fill: the paper's

    def _fit(self, network: Network, images: Mapping[str, np.ndarray], progress: Progress) -> Arrays:
        count = len(images["train"])
        few = np.linspace(0, count - 1, min(self.settings.images, count)).round().astype(int)
        found = {split: images[split][few] if split == "train" else images[split] for split in self.fitted_on}
        products = {split: self._all(network, part) for split, part in found.items()}
        progress(sum(len(images[split]) for split in self.fitted_on))
        scales = np.array([float(layer.abs().mean()) or 1.0 for layer in products["train"]])

        def histograms(settings: Any) -> Arrays:
            """Return {layer: images in each bin of each neuron, at most `fill`, float64 [C, bins - 2]}."""
            arrays = {}
            for place, (rows, scale) in enumerate(zip(products["train"], scales, strict=True)):
                counts = torch.zeros(rows.shape[1], settings.bins - 2, dtype=torch.float64)
                bins = binned(rows, settings.alpha / scale, settings.bins).T
                counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
                arrays[f"covered.{place}"] = counts.clamp_max(settings.fill).numpy()
            return {**arrays, "scales": scales}

        known: dict[Any, Arrays] = {}

        def scores(settings: Any, split: str) -> np.ndarray:
            key = replace(settings, decay=0.0)
            if key not in known:
                state = histograms(settings)
                tuned = self.fitted_on[1:]
                known[key] = {part: coverage(products[part], state, settings) for part in tuned}
            return -decayed(known[key][split], settings.decay)

        if autos(self.settings):
            self.settings, self.chosen = choose(self.settings, self.space, scores)
        return histograms(self.settings)

    def _score(self, network: Network, batch: Tensor, state: Arrays) -> Tensor:
        covered = coverage(states_of(network, batch), state, self.settings)
        return torch.from_numpy(-decayed(covered, self.settings.decay))

    def _all(self, network: Network, images: np.ndarray) -> list[Tensor]:
        parts = [states_of(network, batch) for batch in network.batches(images)]
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def states_of(network: Network, batch: Tensor) -> list[Tensor]:
    """Return z g of each layer, float64 [N, C] on the CPU: value times gradient, each summed over the map."""
    with torch.enable_grad():
        x = batch.detach().requires_grad_(True)
        maps, features = network.need_stages()(x, {})
        logs = network.need_head()(features).log_softmax(1)
        layers = merged(maps, features)
        gradients = torch.autograd.grad(-logs.mean(1).sum(), layers)
    summed = (
        [widened(part.detach() if part.ndim == 2 else part.detach().sum((2, 3))) for part in pair]
        for pair in zip(layers, gradients, strict=True)
    )
    return [(value * gradient).cpu() for value, gradient in summed]


def edges(bins: int) -> np.ndarray:
    """Return the inner edges [bins - 3] of the histogram: logarithmic, nearest each other at 1/2.

    Of the authors' `bins` edges three are none: 0, and two above 1. The middle is exactly 1/2, the state of a
    neuron that is 0.
    """
    half = np.log(np.linspace(1, np.sqrt(BASE), bins // 2)[1:-1]) / np.log(BASE)
    return np.concatenate([half, [0.5], (1 - half)[::-1]])


def binned(rows: Tensor, steepness: float, bins: int) -> Tensor:
    """Return the bin of sigmoid(steepness * rows), of rows [N, C]: int64; an edge is of the bin above."""
    return torch.bucketize(torch.sigmoid(rows * steepness), torch.from_numpy(edges(bins)), right=True)


def coverage(products: list[Tensor], state: Arrays, settings: Any) -> np.ndarray:
    """Return the mean coverage of each layer's neurons, float64 [layers, N], from its z g [N, C]."""
    covered = []
    for place, (rows, scale) in enumerate(zip(products, state["scales"], strict=True)):
        bins = binned(rows, settings.alpha / scale, settings.bins)
        counts = torch.from_numpy(np.array(state[f"covered.{place}"]))
        # whole numbers are summed: equal coverages are equal to the last bit
        covered.append(counts.gather(1, bins.T).sum(0) / (settings.fill * len(counts)))
    return torch.stack(covered).numpy()
