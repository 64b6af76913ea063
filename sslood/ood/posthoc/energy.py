"""Free energy (Liu et al. 2020, eq. 4)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.special import logsumexp

from sslood.core.settings import Auto, Settings, above
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class EnergySettings(Settings):
    temperature: Annotated[float | Auto, above(0), "temperature T of the logits"] = 1.0


class Energy(Detector):
    """E(x) = -T log sum_c exp(f_c(x) / T)."""

    reads = ("logits",)
    Settings = EnergySettings
    space = {"temperature": (0.1, 0.5, 1.0, 2.0, 10.0)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        temperature = self.settings.temperature
        return -temperature * logsumexp(outputs.logits.astype(np.float64) / temperature, axis=1)
