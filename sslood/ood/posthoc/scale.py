"""SCALE (Xu et al. 2024): energy of the logits from features scaled as ASH does, but none pruned."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.special import logsumexp

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.shaping import largest, scaling
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Head, Outputs


@dataclass(frozen=True)
class ScaleSettings(Settings):
    pruned: Annotated[float | Auto, inside(0, 1), "share of the features left out of the denominator"] = 0.85


class Scale(Detector):
    """-log sum_c exp(f_c(z exp(s1 / s2))), s1 the sum of all features, s2 that of the largest."""

    reads = ("features",)
    needs_head = True
    Settings = ScaleSettings
    space = {"pruned": (0.65, 0.75, 0.85, 0.9, 0.95)}

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        return dict(vars(source.head))

    def _score(self, outputs: Outputs) -> np.ndarray:
        rows = outputs.features.astype(np.float64)
        scaled = rows * scaling(rows, largest(rows, self.settings.pruned))
        return -logsumexp(Head(self.state["weight"], self.state["bias"]).logits(scaled), axis=1)
