"""Free energy.

Liu, Wang, Owens and Li: Energy-based Out-of-distribution Detection, NeurIPS 2020, arXiv:2010.03759, eq. 4.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, above
from sslood.ood.geometry.products import number
from sslood.ood.kit.detector import Detector, Tensors


@dataclass(frozen=True)
class EnergySettings(Settings):
    """Hyperparameters of the free energy."""

    temperature: Annotated[float | Auto, above(0), "temperature of the logits; the paper uses 1"] = 1.0


class Energy(Detector):
    """E(x) = -T log sum_c exp(f_c(x) / T)."""

    reads = ("logits",)
    Settings = EnergySettings
    space = {"temperature": (0.1, 0.5, 1.0, 2.0, 10.0)}  # OpenOOD's grid is 1, 10, ...; the paper's 1 to 1000

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        temperature = number(self.settings.temperature)
        return -temperature * torch.logsumexp(parts["logits"] / temperature, 1)
