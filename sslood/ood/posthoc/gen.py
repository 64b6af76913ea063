"""Generalised entropy (Liu, Lochman and Zach 2023, eq. 4)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sslood.core.settings import Auto, Settings, above, at_least
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.log_softmax import log_of_rest, log_probabilities
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class GenSettings(Settings):
    gamma: Annotated[float | Auto, above(0), "exponent"] = 0.1
    top: Annotated[int | Auto, at_least(1), "number of largest probabilities that are summed"] = 100


class Gen(Detector):
    """sum over the `top` largest p_c of (p_c (1 - p_c))^gamma, from logarithms: no clamp is needed."""

    reads = ("logits",)
    Settings = GenSettings
    space = {"gamma": (0.01, 0.1, 0.5), "top": (5, 10, 100)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        logs = -np.sort(-log_probabilities(outputs.logits), axis=1)
        rest = np.empty_like(logs)
        rest[:, 0] = log_of_rest(outputs.logits)
        rest[:, 1:] = np.log1p(-np.exp(logs[:, 1:]))  # no other class is above 1/2
        top = self.settings.top
        return np.exp(self.settings.gamma * (logs + rest)[:, :top]).sum(axis=1)
