"""ASH (Djurisic et al. 2023): energy of the logits from features of which only the largest are kept."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import logsumexp

from sslood.ood.geometry.shaping import largest, scaling
from sslood.ood.kit.detector import Detector, fraction
from sslood.ood.kit.outputs import Head, Outputs


@dataclass(frozen=True)
class AshSettings:
    """variant: s scales what is kept, b gives all of it one value, p leaves it; pruned: share set to zero."""

    variant: Literal["s", "b", "p"] = "s"
    pruned: float = 0.65

    def __post_init__(self):
        fraction("ash", pruned=self.pruned)


class Ash(Detector):
    """-log sum_c exp(f_c(shaped z)), for features that are not negative, as after a ReLU.

    With s1 the sum of an image's features and s2 that of its kept ones: s multiplies the kept by
    exp(s1 / s2), b replaces each of the n kept by s1 / n.
    """

    reads = ("features",)
    needs_head = True
    Settings = AshSettings
    space = {"variant": ("s", "b", "p"), "pruned": (0.65, 0.75, 0.85, 0.9, 0.95)}

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        return dict(vars(source.head))

    def _score(self, outputs: Outputs) -> np.ndarray:
        rows = outputs.features.astype(np.float64)
        kept = largest(rows, self.settings.pruned)
        shaped = np.where(kept, rows, 0.0)
        if self.settings.variant == "s":
            shaped *= scaling(rows, kept)
        elif self.settings.variant == "b":
            shaped = kept * (rows.sum(axis=1) / kept.sum(axis=1))[:, None]
        return -logsumexp(Head(self.state["weight"], self.state["bias"]).logits(shaped), axis=1)
