"""ASH: energy of the logits from features of which only the largest are kept.

Djurisic, Bozanic, Ashok and Liu: Extremely Simple Activation Shaping for Out-of-Distribution Detection, ICLR
2023, arXiv:2209.09858.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.logits import free_energy, head_state
from sslood.ood.geometry.shaping import largest, scaling
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class ASHSettings(Settings):
    """Hyperparameters of ASH."""

    variant: Annotated[
        Literal["s", "b", "p"] | Auto,
        "s scales the features that are kept, b sets them to one value, p leaves them",
    ] = "s"
    pruned: Annotated[float | Auto, inside(0, 1), "share of an image's features set to zero"] = 0.65


class ASH(Detector):
    """-log sum_c exp(f_c(shaped z)), for features that are not negative, as after a ReLU.

    With s1 the sum of an image's features and s2 that of its kept ones: s multiplies the kept by
    exp(s1 / s2), b replaces each of the n kept by s1 / n.
    """

    reads = ("features",)
    needs_head = True
    Settings = ASHSettings
    # the paper's variants and a sweep of its percentiles, 65 to 95
    space = {"variant": ("s", "b", "p"), "pruned": (0.65, 0.75, 0.85, 0.9, 0.95)}

    def _fit(self, source: Outputs) -> Arrays:
        return head_state(source.need_head())

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = parts["features"]
        kept = largest(rows, self.settings.pruned)
        if self.settings.variant == "b":
            shaped = kept * (rows.sum(1) / kept.sum(1))[:, None]
        else:
            shaped = torch.where(kept, rows, 0.0)
            if self.settings.variant == "s":
                shaped = shaped * scaling(rows, kept)
        return free_energy(state, shaped)
