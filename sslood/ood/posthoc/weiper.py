"""WeiPer + KLD: how the features, and the logits of many perturbed classifiers, are distributed in an image.

Granz, Heurich and Landgraf: WeiPer: OOD Detection using Weight Perturbations of Class Projections, NeurIPS
2024, arXiv:2405.17164.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.seeding import numpy_stream
from sslood.core.settings import Auto, Settings, above, at_least
from sslood.ood.geometry.products import number, product
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs, chunks

FLOOR = 1e-2  # of a density, in units of the even one: an empty bin says little in a few hundred values


@dataclass(frozen=True)
class WeiPerSettings(Settings):
    """Hyperparameters of WeiPer + KLD."""

    delta: Annotated[
        float | Auto, above(0), "length of a perturbation, in lengths of the class's weights"
    ] = 2.0
    repeats: Annotated[int, at_least(1), "perturbed classifiers"] = 50
    bins: Annotated[int, at_least(2), "bins of a density"] = 100
    smooth: Annotated[int, at_least(1), "bins that the features' density is averaged over"] = 4
    smooth_logits: Annotated[int, at_least(1), "bins that the perturbed logits' density is averaged over"] = (
        15
    )
    logits_weight: Annotated[float | Auto, at_least(0), "weight of the perturbed logits' divergence"] = 1.0
    msp_weight: Annotated[float | Auto, at_least(0), "weight of the mean maximum softmax probability"] = 1.0


class WeiPer(Streaming):
    """KLD(z) + logits_weight KLD(u) - msp_weight mean_r max softmax(u_r).

    u_r = W_r z + b are the logits of perturbed classifiers, W_r = W + delta |w_c| e / |e| with e a normal
    vector of each class and r. KLD is the symmetric divergence between the histogram of an image's values and
    the mean histogram of ID train. Fitting needs all features: N * D * 4 bytes.
    """

    piece = WHOLE
    reads = ("features",)
    needs_head = True
    Settings = WeiPerSettings
    space = {"delta": (1.0, 2.0), "logits_weight": (0.1, 1.0), "msp_weight": (0.1, 1.0, 5.0)}  # of its ranges

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "features")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        head, settings = source.need_head(), self.settings
        weight = head.weight.astype(np.float64)
        noise = numpy_stream(self.seed, "weiper").normal(size=(settings.repeats, *weight.shape))
        noise *= np.linalg.norm(weight, axis=1)[:, None] / np.linalg.norm(noise, axis=2, keepdims=True)
        state = {
            "weight": (weight + settings.delta * noise).reshape(-1, weight.shape[1]),
            "bias": np.tile(head.bias.astype(np.float64), settings.repeats),
        }
        tensors = {key: torch.from_numpy(array) for key, array in state.items()}
        features = sums["features"].all

        def both(rows: np.ndarray) -> tuple[Tensor, Tensor]:
            wide = torch.from_numpy(rows.astype(np.float64))
            return wide, _logits(wide, tensors)

        ranges = np.array(
            [[(part.min().item(), part.max().item()) for part in both(rows)] for rows in chunks(features)]
        )
        state["low"], state["high"] = ranges[..., 0].min(axis=0), ranges[..., 1].max(axis=0)
        tensors |= {key: torch.from_numpy(state[key]) for key in ("low", "high")}
        total = torch.zeros(2, settings.bins, dtype=torch.float64)
        for rows in chunks(features):
            total += torch.stack([one.sum(0) for one in self._densities(both(rows), tensors)])
        return {**state, "densities": (total / len(features)).numpy()}

    def _densities(self, values: tuple[Tensor, Tensor], state: Tensors) -> list[Tensor]:
        """Return the smoothed densities of the features and of the perturbed logits: [n, bins] each."""
        bins, widths = self.settings.bins, (self.settings.smooth, self.settings.smooth_logits)
        return [
            _density(rows, state["low"][i], state["high"][i], bins, widths[i])
            for i, rows in enumerate(values)
        ]

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = parts["features"]
        logits = _logits(rows, state)
        densities = self._densities((rows, logits), state)
        of_rows, of_logits = (
            _divergence(one, known) for one, known in zip(densities, state["densities"], strict=True)
        )
        classes = logits.shape[1] // self.settings.repeats
        p = torch.softmax(logits.reshape(-1, self.settings.repeats, classes), 2).amax(2).mean(1)
        weights = number(self.settings.logits_weight), number(self.settings.msp_weight)
        return of_rows + weights[0] * of_logits - weights[1] * p


def _logits(rows: Tensor, state: Tensors) -> Tensor:
    return product(rows, state["weight"].T) + state["bias"]


def _density(rows: Tensor, low: Tensor, high: Tensor, bins: int, width: int) -> Tensor:
    """Return the histogram [n, bins] of each row [n, D], averaged over `width` bins, of mean 1, above 0."""
    span = high - low
    place = ((rows - low) / torch.where(span > 0, span, 1.0) * number(bins)).floor()
    place = place.clamp(0, bins - 1).long()
    counts = torch.zeros_like(rows[:, :1]).repeat(1, bins).scatter_add(1, place, torch.ones_like(rows))
    left = (width - 1) // 2
    padded = torch.nn.functional.pad(counts, (left + 1, width - 1 - left)).cumsum(1)
    smooth = padded[:, width:] - padded[:, :-width]
    smooth = smooth * number(bins / (width * rows.shape[1])) + number(FLOOR)
    return smooth / smooth.mean(1, keepdim=True)


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """Return KL(one | other) + KL(other | one) of densities [n, bins] and [bins], in nats: [n]."""
    return ((one - other) * (one.log() - other.log())).mean(1)
