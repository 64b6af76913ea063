"""NECO: share of the features within principal directions, times the largest logit.

Ben Ammar et al.: NECO: NEural Collapse Based Out-of-distribution detection, ICLR 2024, arXiv:2310.06823.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import Tensor

from sslood.core.errors import LeftOut
from sslood.core.settings import Auto, Settings, inside
from sslood.ood.geometry.products import length, product
from sslood.ood.geometry.standard import usable_spread
from sslood.ood.geometry.subspace import dimensions, directions
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import Streaming, Sums, all_moments
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class NECOSettings(Settings):
    """Hyperparameters of NECO."""

    share: Annotated[
        float | Auto, inside(0, 1), "share of the feature dimensions that count as principal"
    ] = 0.2


class NECO(Streaming):
    """-max_c f_c * |P^T z| / |z|, z the features standardised on ID train, P its principal directions."""

    reads = ("features", "logits")
    Settings = NECOSettings
    space = {
        "share": (0.05, 0.1, 0.2, 0.4, 0.6)
    }  # our own; the paper chooses the dimension by explained variance

    def _gather(self, source: Outputs) -> Sums:
        return {"all": all_moments(source)}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        mean, moments = sums["all"].means[0], sums["all"].covariance
        variances = np.diag(moments)
        size = float(np.sqrt(mean @ mean + variances.sum()))
        std = usable_spread(np.sqrt(variances), size if size > 0 else 1.0)
        count = dimensions(self.settings.share, len(mean))
        basis, _ = directions(moments / np.outer(std, std), count, float((mean**2 + variances) @ std**-2.0))
        if not basis.size:
            raise LeftOut("all rows are equal, so there are no principal directions", f"{source.name}: ")
        return {"mean": mean, "std": std, "basis": basis}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        rows = (parts["features"] - state["mean"]) / state["std"]
        share = length(product(rows, state["basis"])) / length(rows).clamp_min(1e-12)
        return -parts["logits"].amax(1) * share
