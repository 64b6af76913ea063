"""DICE (Sun and Li 2022): energy of the logits from the weights that contribute most on ID train."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.special import logsumexp

from sslood.core.settings import Auto, Settings, inside
from sslood.ood.kit.fitting import Streaming, Sums
from sslood.ood.kit.outputs import Head, Outputs


@dataclass(frozen=True)
class DiceSettings(Settings):
    dropped: Annotated[float | Auto, inside(0, 1), "share of the classifier's weights set to zero"] = 0.9


class Dice(Streaming):
    """-log sum_c exp(sum_d W_cd M_cd z_d + b_c); M keeps the largest W_cd * mean of z_d on ID train."""

    reads = ("features",)
    needs_head = True
    Settings = DiceSettings
    space = {"dropped": (0.1, 0.3, 0.5, 0.7, 0.9)}

    def _gather(self, source: Outputs) -> Sums:
        return {"sum": source.features.sum(axis=0, dtype=np.float64), "count": np.array(len(source))}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        weight = source.head.weight.astype(np.float64)
        contribution = weight * (sums["sum"] / sums["count"])
        kept = contribution > np.quantile(contribution, self.settings.dropped)
        return {"weight": weight * kept, "bias": source.head.bias.astype(np.float64)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        return -logsumexp(Head(**self.state).logits(outputs.features), axis=1)
