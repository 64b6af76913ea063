"""Generalised entropy (Liu, Lochman and Zach 2023, eq. 4)."""

from dataclasses import dataclass

import numpy as np

from sslood.ood.kit.detector import Detector, positive
from sslood.ood.kit.log_softmax import log_of_rest, log_probabilities
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class GenSettings:
    """gamma in (0, 1); top: number of largest probabilities summed (all, if there are fewer)."""

    gamma: float = 0.1
    top: int = 100

    def __post_init__(self):
        positive("gen", gamma=self.gamma, top=self.top)


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
