"""LTS: energy of logits that are scaled as SCALE scales features.

Djurisic, Liu and Nikolic: Logit Scaling for Out-of-Distribution Detection, 2024, arXiv:2409.01175.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.logits import head_logits, head_state
from sslood.ood.geometry.shaping import ratio
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class LTSSettings(Settings):
    """Hyperparameters of LTS."""

    pruned: Annotated[
        float | Auto, inside(0, 1), "share of the features left out of the denominator; the paper uses 0.95"
    ] = 0.95


class LTS(Detector):
    """-log sum_c exp(f_c(z) (s1 / s2)^2), s1 the sum of all positive features, s2 that of the largest."""

    reads = ("features",)
    needs_head = True
    Settings = LTSSettings
    space = {"pruned": (0.5, 0.65, 0.8, 0.9, 0.95)}  # our own, about the paper's

    def _fit(self, source: Outputs) -> Arrays:
        return head_state(source.need_head())

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = parts["features"]
        factor = ratio(rows.clamp_min(0.0), self.settings.pruned)
        return -torch.logsumexp(head_logits(state, rows) * factor**2, 1)
