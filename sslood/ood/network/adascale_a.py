"""AdaSCALE-A: SCALE whose share of pruned features depends on how much a step of the image shifts them.

Regmi: AdaSCALE: Adaptive Scaling for OOD Detection, 2025, arXiv:2503.08023, with k1 and k2 as the authors'
erratum has them; OpenOOD's are still the other way round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.settings import Auto, Settings, above, at_least, autos, between, inside
from sslood.ood.kit.network_choice import choose
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress, widened

HIGH = (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class AdaSCALESettings(Settings):
    """Hyperparameters of AdaSCALE; the authors tune `high` alone."""

    low: Annotated[float, inside(0, 1), "share of the features that the most shifted image prunes"] = 0.6
    high: Annotated[float | Auto, inside(0, 1), "share that the least shifted image prunes"] = "auto"
    epsilon: Annotated[float, at_least(0), "step of the image, in standard deviations of its channels"] = 0.5
    moved: Annotated[float, inside(0, 1), "share of the image's values that step, the least important"] = 0.05
    k1: Annotated[float, between(0, 1), "share of the features, the largest, whose shift counts"] = 0.01
    k2: Annotated[float, between(0, 1), "share of the features, the largest, whose new value counts"] = 0.05
    weight: Annotated[float, above(0), "weight of the shift, lambda in the paper"] = 10.0

    def _check(self) -> None:
        if self.high != "auto" and self.high < self.low:
            raise InputError(f"high must be at least low, {self.low}, found {self.high}")


Pair = tuple[Tensor, Tensor]


class AdaSCALEA(NetworkDetector):
    """-log sum_c exp f_c(z exp(r)), r the sum of all positive features z over that of the largest.

    An image prunes the share low + (1 - F(Q)) (high - low) of its features, F the distribution of Q on ID
    validation. Q = weight sum_k1 |z - z'| + sum_k2 max(z', 0) over its k1 and k2 largest features, z' the
    features of the image whose least important values went a step up the gradient of the predicted logit.
    At least one feature counts each time: the authors' code counts none of fewer than 100 features for k1.
    """

    reads = ("stages", "head")
    learns_from = ("validation",)
    Settings = AdaSCALESettings
    space = {"high": HIGH}

    def _fit(
        self, network: Network, images: Mapping[str, np.ndarray], progress: Progress
    ) -> dict[str, np.ndarray]:
        s = self.settings
        pairs = {split: all_pairs(network, images[split], s, progress) for split in self.fitted_on}
        state = {"shifts": torch.sort(shift(*pairs["validation"], s)).values.numpy()}

        def scores(settings: Any, split: str) -> np.ndarray:
            return self._from_pair(network, *pairs[split], state, settings).numpy()

        if autos(s):
            self.settings, self.chosen = choose(s, self.space, scores)
        return state

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return self._from_pair(network, *pair(network, batch, self.settings), state, self.settings)

    def _from_pair(
        self, network: Network, features: Tensor, moved: Tensor, state: dict[str, np.ndarray], settings: Any
    ) -> Tensor:
        shifts = shift(features, moved, settings).cpu().numpy()
        above = 1 - np.searchsorted(state["shifts"], shifts, side="right") / len(state["shifts"])
        pruned = settings.low + above * (settings.high - settings.low)
        ratios = adaptive_ratio(features.clamp_min(0), torch.from_numpy(pruned).to(features))
        return -self._scaled(network, features, ratios).logsumexp(1).cpu()

    def _scaled(self, network: Network, features: Tensor, ratios: Tensor) -> Tensor:
        """Return the scaled logits, float64 [N, K]."""
        return logits_of(network, features * ratios.exp())


def adaptive_ratio(rows: Tensor, pruned: Tensor) -> Tensor:
    """Return the sum of a row over that of its largest, all but the share `pruned` [n]: [n, 1].

    rows [n, D] are at least 0. At least one feature counts; 1 where the largest sum to zero.
    """
    width = rows.shape[1]
    counts = (width - torch.round(width * pruned)).long().clamp_min(1)
    sums = rows.sort(1, descending=True).values.cumsum(1)
    largest = sums.gather(1, counts[:, None] - 1)
    return torch.where(largest > 0, sums[:, -1:] / torch.where(largest > 0, largest, 1.0), 1.0)


def shift(features: Tensor, moved: Tensor, settings: Any) -> Tensor:
    """Return Q [N] of features and of those after the step, float64 [N, D]."""
    k1, k2 = (max(1, int(features.shape[1] * share)) for share in (settings.k1, settings.k2))
    order = torch.sort(features, dim=1, descending=True, stable=True).indices
    shifts = (features - moved).abs().gather(1, order[:, :k1]).sum(1)
    return settings.weight * shifts + moved.clamp_min(0).gather(1, order[:, :k2]).sum(1)


def all_pairs(network: Network, images: np.ndarray, settings: Any, progress: Progress) -> Pair:
    """Return `pair` of all images on the CPU, computed once for A and L if they step alike."""

    def compute(images: np.ndarray) -> list[Tensor]:
        parts = [[one.cpu() for one in pair(network, b, settings)] for b in network.batches(images)]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    features, moved = network.once(f"{_steps(settings)} of {id(images)}", images, compute)
    progress(len(images))
    return features, moved


def pair(network: Network, batch: Tensor, settings: Any) -> Pair:
    """Return the features [N, D] of normalised images and of the same after the step, float64."""

    def compute(batch: Tensor) -> Pair:
        stages, head = network.need_stages(), network.need_head()
        with torch.enable_grad():
            x = batch.detach().requires_grad_(True)
            features = stages(x, {})[1]
            gradient = torch.autograd.grad(head(features).amax(1).sum(), x)[0]
        flat = gradient.abs().flatten(1)
        count = int(flat.shape[1] * settings.moved)
        least = flat.topk(count, dim=1, largest=False).indices
        mask = torch.zeros_like(flat).scatter_(1, least, 1.0).view_as(x)
        with torch.inference_mode():
            moved = stages(batch + settings.epsilon * mask * gradient.sign(), {})[1]
        return widened(features.detach()), widened(moved)

    return network.once(_steps(settings), batch, compute)


def _steps(settings: Any) -> str:
    return f"features moved by {settings.epsilon} in {settings.moved}"


def logits_of(network: Network, features: Tensor) -> Tensor:
    """Return the logits float64 [N, K] of float64 features [N, D]."""
    with torch.inference_mode():
        return widened(network.need_head()(features.to(network.device, network.dtype)))
