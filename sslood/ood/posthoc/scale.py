"""SCALE: energy of the logits from features scaled as ASH does, but none pruned.

Xu, Chen, Franchi and Yao: Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement,
ICLR 2024, arXiv:2310.00227.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.logits import free_energy, head_state
from sslood.ood.geometry.shaping import largest, scaling
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class SCALESettings(Settings):
    """Hyperparameters of SCALE."""

    pruned: Annotated[
        float | Auto, inside(0, 1), "share of the features left out of the denominator; the paper uses 0.85"
    ] = 0.85


class SCALE(Detector):
    """-log sum_c exp(f_c(z exp(s1 / s2))), s1 the sum of all features, s2 that of the largest."""

    reads = ("features",)
    needs_head = True
    Settings = SCALESettings
    space = {"pruned": (0.65, 0.75, 0.85, 0.9, 0.95)}  # OpenOOD's sweep

    def _fit(self, source: Outputs) -> Arrays:
        return head_state(source.need_head())

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = parts["features"]
        return free_energy(state, rows * scaling(rows, largest(rows, self.settings.pruned)))
