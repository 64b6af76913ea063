"""Gram matrices of the layers' maps within their range on ID train.

Sastry and Oore: Detecting Out-of-Distribution Examples with Gram Matrices, ICML 2020, arXiv:1912.12510.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.settings import Settings, at_least
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened

SMALL = 1e-6  # added to the bounds that deviations are divided by


@dataclass(frozen=True)
class GramSettings(Settings):
    """Hyperparameters of the Gram detector."""

    powers: Annotated[int, at_least(1), "orders 1 to this of the Gram matrices; the paper goes to 10"] = 5


def gram_rows(maps: Tensor, powers: int) -> Tensor:
    """Return sum_j (F^p F^pT)_ij to the power 1/p, float64 [N, powers * C], of maps F [N, C, h, w].

    F^p is elementwise, the root keeps the sign. The paper's experiments take these row sums in place of
    all entries. The sum over j goes before the product, so that no matrix C x C is formed.
    """
    flat = widened(maps).flatten(2)
    found, power = [], torch.ones_like(flat)
    for p in range(1, powers + 1):
        power = power * flat
        rows = (power * power.sum(1, keepdim=True)).sum(2)
        found.append(rows.sign() * rows.abs() ** (1 / p))
    return torch.cat(found, 1)


def deviations(rows: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return by what share of the bound each row [N, F] leaves [low, high], summed over F: [N]."""
    below = (low - rows).clamp_min(0) / (low.abs() + SMALL)
    above = (rows - high).clamp_min(0) / (high.abs() + SMALL)
    return (below + above).sum(1)


class Gram(NetworkDetector):
    """sum over layers of deviation / mean deviation on ID validation.

    Each order, channel and predicted class has its range on ID train; fitting streams over the images and
    keeps two numbers for each. A class that no training image is predicted as takes the range of all.
    """

    reads = ("maps",)
    learns_from = ("train", "validation")
    Settings = GramSettings

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        bounds: list[tuple[Tensor, Tensor]] = []
        for batch in network.batches(images["train"], progress):
            rows, predicted, classes = self._rows(network, batch)
            if not bounds:
                bounds = [
                    (
                        r.new_full((classes, r.shape[1]), torch.inf),
                        r.new_full((classes, r.shape[1]), -torch.inf),
                    )
                    for r in rows
                ]
            for (low, high), layer in zip(bounds, rows, strict=True):
                index = predicted[:, None].expand_as(layer)
                low.scatter_reduce_(0, index, layer, "amin")
                high.scatter_reduce_(0, index, layer, "amax")
        state: dict[str, np.ndarray] = {}
        for layer_number, (low, high) in enumerate(bounds):
            seen = torch.isfinite(low)
            low, high = torch.where(seen, low, low.amin(0)), torch.where(seen, high, high.amax(0))
            state |= {f"low.{layer_number}": low.cpu().numpy(), f"high.{layer_number}": high.cpu().numpy()}
        batches = network.batches(images["validation"], progress)
        mean = torch.cat([self._deviations(network, batch, state) for batch in batches]).mean(0).cpu().numpy()
        return {**state, "expected": np.where(mean > 0, mean, 1.0)}

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        found = self._deviations(network, batch, state)
        return (found / torch.from_numpy(state["expected"]).to(found)).sum(1)

    @torch.inference_mode()
    def _rows(self, network: Network, batch: Tensor) -> tuple[list[Tensor], Tensor, int]:
        """Return (gram rows of each layer, predicted class [N], number of classes)."""
        rows, logits = network.need_maps()(batch, lambda maps: gram_rows(maps, self.settings.powers))
        return rows, logits.argmax(1).to(rows[0].device), logits.shape[1]

    def _deviations(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        """Return the deviation of each image in each layer, [N, layers]."""
        rows, predicted, _ = self._rows(network, batch)
        found = []
        for layer_number, layer in enumerate(rows):
            low, high = (
                torch.from_numpy(state[f"{end}.{layer_number}"]).to(layer.device) for end in ("low", "high")
            )
            found.append(deviations(layer, low[predicted], high[predicted]))
        return torch.stack(found, 1)
