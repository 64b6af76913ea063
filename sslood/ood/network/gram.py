"""Gram matrices of the layers' maps within their range on ID train (Sastry and Oore 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sslood.ood.kit.detector import positive
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened

SMALL = 1e-6  # added to the bounds that deviations are divided by


@dataclass(frozen=True)
class GramSettings:
    """powers: orders p = 1, ..., powers of the Gram matrices; the paper goes to 10."""

    powers: int = 5

    def __post_init__(self):
        positive("gram", powers=self.powers)


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
    fitted_on = ("train", "validation")
    Settings = GramSettings

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        bounds: list[tuple[Tensor, Tensor]] = []
        for batch in network.batches(images["train"], progress):
            rows, predicted, classes = self._rows(network, batch)
            if not bounds:
                ends = (torch.inf, -torch.inf)
                bounds = [tuple(r.new_full((classes, r.shape[1]), end) for end in ends) for r in rows]
            for (low, high), layer in zip(bounds, rows, strict=True):
                place = predicted[:, None].expand_as(layer)
                low.scatter_reduce_(0, place, layer, "amin")
                high.scatter_reduce_(0, place, layer, "amax")
        self.state = {}
        for place, (low, high) in enumerate(bounds):
            seen = torch.isfinite(low)
            low, high = torch.where(seen, low, low.amin(0)), torch.where(seen, high, high.amax(0))
            self.state |= {f"low.{place}": low.cpu().numpy(), f"high.{place}": high.cpu().numpy()}
        parts = [
            self._deviations(network, batch) for batch in network.batches(images["validation"], progress)
        ]
        mean = torch.cat(parts).mean(0).cpu().numpy()
        return {**self.state, "expected": np.where(mean > 0, mean, 1.0)}

    def _score(self, network: Network, batch: Tensor) -> Tensor:
        found = self._deviations(network, batch)
        return (found / torch.from_numpy(self.state["expected"]).to(found)).sum(1)

    @torch.inference_mode()
    def _rows(self, network: Network, batch: Tensor) -> tuple[list[Tensor], Tensor, int]:
        """Return (gram rows of each layer, predicted class [N], number of classes)."""
        rows, logits = network.maps(batch, lambda maps: gram_rows(maps, self.settings.powers))
        return rows, logits.argmax(1).to(rows[0].device), logits.shape[1]

    def _deviations(self, network: Network, batch: Tensor) -> Tensor:
        """Return the deviation of each image in each layer, [N, layers]."""
        rows, predicted, _ = self._rows(network, batch)
        found = []
        for place, layer in enumerate(rows):
            ends = (
                torch.from_numpy(self.state[f"{end}.{place}"]).to(layer.device) for end in ("low", "high")
            )
            found.append(deviations(layer, *(end[predicted] for end in ends)))
        return torch.stack(found, 1)
