"""VRA: energy of the logits from features whose extremes at both ends are rectified.

Xu, Lian, Liu and Tao: VRA: Variational Rectified Activation for Out-of-distribution Detection, NeurIPS 2023,
arXiv:2302.11716, eq. 8.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.settings import Auto, Settings, at_least, inside
from sslood.ood.geometry.logits import free_energy, head_state
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs
from sslood.ood.posthoc.react import quantile


@dataclass(frozen=True)
class VRASettings(Settings):
    """Hyperparameters of VRA."""

    low: Annotated[
        float | Auto, at_least(0), "share of ID train activations, the lowest, that are set to zero"
    ] = 0.05
    high: Annotated[float | Auto, inside(0, 1), "share of ID train activations below the upper limit"] = 0.95

    def _check(self) -> None:
        if self.low != "auto" and self.high != "auto" and self.low >= self.high:
            raise InputError(f"low must be below high, found {self.low} and {self.high}")


class VRA(Streaming):
    """-log sum_c exp(f_c(z')), z' = 0 below the lower limit, z up to the upper one, and that limit above it.

    The limits are quantiles of all ID train activations. Fitting needs these at once: N * D * 4 bytes.
    """

    piece = WHOLE
    reads = ("features",)
    needs_head = True
    Settings = VRASettings
    space = {"low": (0.01, 0.05, 0.1, 0.3), "high": (0.85, 0.9, 0.95, 0.99)}  # about OpenOOD's sweep

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "features")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        values = sums["features"].all.ravel()
        limits = [quantile(values, share) for share in (self.settings.low, self.settings.high)]
        return {"limits": np.array(limits), **head_state(source.need_head())}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows, limits = parts["features"], state["limits"]
        return free_energy(state, torch.where(rows < limits[0], 0.0, torch.minimum(rows, limits[1])))
