"""ASH (Djurisic et al. 2023): energy of the logits from features of which only the largest are kept."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from scipy.special import logsumexp

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.shaping import largest, scaling
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Head, Outputs


@dataclass(frozen=True)
class AshSettings(Settings):
    variant: Annotated[
        Literal["s", "b", "p"] | Auto,
        "s scales the features that are kept, b gives all of them one value, p leaves them",
    ] = "s"
    pruned: Annotated[float | Auto, inside(0, 1), "share of an image's features that is set to zero"] = 0.65


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
