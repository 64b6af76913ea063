"""GEN: generalised entropy.

Liu, Lochman and Zach: GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection, CVPR 2023, eq.
4, https://openaccess.thecvf.com/content/CVPR2023.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from sslood.core.settings import Auto, Settings, above, at_least
from sslood.ood.geometry.logits import log_of_rest, log_probabilities
from sslood.ood.geometry.products import number
from sslood.ood.kit.detector import Detector, Tensors


@dataclass(frozen=True)
class GENSettings(Settings):
    """Hyperparameters of GEN."""

    gamma: Annotated[float | Auto, above(0), "exponent; the paper uses 0.1"] = 0.1
    top: Annotated[
        int | Auto, at_least(1), "number of largest probabilities summed (all, if there are fewer)"
    ] = 100


class GEN(Detector):
    """sum over the `top` largest p_c of (p_c (1 - p_c))^gamma, from logarithms: no clamp is needed."""

    reads = ("logits",)
    least_classes = 2  # a single class has probability 1 always
    Settings = GENSettings
    space = {"gamma": (0.01, 0.1, 0.5), "top": (5, 10, 100)}  # of OpenOOD's sweep, the ends and the middle

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        logs = log_probabilities(parts["logits"])
        logs = logs.topk(min(self.settings.top, logs.shape[1]), dim=1).values
        # no class but the first is above 1/2
        rest = torch.cat([log_of_rest(parts["logits"])[:, None], torch.log1p(-logs[:, 1:].exp())], 1)
        return (number(self.settings.gamma) * (logs + rest)).exp().sum(1)
