"""Free energy (Liu et al. 2020, eq. 4)."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from sslood.ood.kit.detector import Detector, positive
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class EnergySettings:
    """temperature T > 0; the paper uses 1."""

    temperature: float = 1.0

    def __post_init__(self):
        positive("energy", temperature=self.temperature)


class Energy(Detector):
    """E(x) = -T log sum_c exp(f_c(x) / T)."""

    reads = ("logits",)
    Settings = EnergySettings
    space = {"temperature": (0.1, 0.5, 1.0, 2.0, 10.0)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        temperature = self.settings.temperature
        return -temperature * logsumexp(outputs.logits.astype(np.float64) / temperature, axis=1)
