"""ReAct: energy of the logits from clipped features.

Sun, Guo and Li: ReAct: Out-of-distribution Detection With Rectified Activations, NeurIPS 2021,
arXiv:2111.12797.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.logits import free_energy, head_state
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class ReActSettings(Settings):
    """Hyperparameters of ReAct."""

    quantile: Annotated[
        float | Auto,
        inside(0, 1),
        "share of all ID train activations below the clipping value; the paper uses 0.9",
    ] = 0.9


class ReAct(Streaming):
    """-log sum_c exp(f_c(min(z, limit))), limit a quantile of all activations.

    Fitting needs all activations at once: N * D * 4 bytes.
    """

    piece = WHOLE
    reads = ("features",)
    needs_head = True
    Settings = ReActSettings
    space = {"quantile": (0.8, 0.85, 0.9, 0.95, 0.99)}  # OpenOOD's sweep, and 0.8

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "features")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        limit = quantile(sums["features"].all.ravel(), self.settings.quantile)
        return {"limit": np.array([limit]), **head_state(source.need_head())}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return free_energy(state, torch.minimum(parts["features"], state["limit"]))


def quantile(values: np.ndarray, share: float) -> float:
    """Return `numpy.quantile` of values [n] in float64, without a float64 copy of them."""
    place = share * (len(values) - 1)
    low, high = int(np.floor(place)), int(np.ceil(place))
    ordered = np.partition(values, [low, high])
    below, above = float(ordered[low]), float(ordered[high])
    return below + (place - low) * (above - below)
