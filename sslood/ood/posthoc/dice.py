"""DICE: energy of the logits from the weights that contribute most on ID train.

Sun and Li: DICE: Leveraging Sparsification for Out-of-Distribution Detection, ECCV 2022, arXiv:2111.09805.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import Tensor

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.logits import free_energy, head_state
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import Streaming, Sums, feature_sum, mean_of
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class DICESettings(Settings):
    """Hyperparameters of DICE."""

    dropped: Annotated[float | Auto, inside(0, 1), "share of the classifier's weights set to zero"] = 0.9


class DICE(Streaming):
    """-log sum_c exp(sum_d W_cd M_cd z_d + b_c); M keeps the largest W_cd * mean of z_d on ID train."""

    reads = ("features",)
    needs_head = True
    Settings = DICESettings
    space = {"dropped": (0.1, 0.3, 0.5, 0.7, 0.9)}  # the paper's sweep of the sparsity

    def _gather(self, source: Outputs) -> Sums:
        return feature_sum(source)

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        state = head_state(source.need_head())
        contribution = state["weight"] * (mean_of(sums))
        kept = contribution > np.quantile(contribution, self.settings.dropped)
        return {**state, "weight": state["weight"] * kept}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        return free_energy(state, parts["features"])
