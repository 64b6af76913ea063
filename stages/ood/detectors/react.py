"""ReAct (Sun, Guo and Li 2021): energy of the logits from clipped features."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stages.ood.detector import Detector, fraction
from stages.ood.outputs import Head, Outputs


@dataclass(frozen=True)
class ReactSettings:
    """quantile: share of all ID train activations below the clipping value; the paper uses 0.9."""

    quantile: float = 0.9

    def __post_init__(self):
        fraction("react", quantile=self.quantile)


class React(Detector):
    """-log sum_c exp(f_c(min(z, limit)))."""

    reads = ("features",)
    needs_head = True
    Settings = ReactSettings
    space = {"quantile": (0.8, 0.85, 0.9, 0.95, 0.99)}

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        limit = np.quantile(source.features, self.settings.quantile)
        return {"limit": np.array([limit], np.float64), **vars(source.head)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        clipped = np.minimum(outputs.features, self.state["limit"])
        return -logsumexp(Head(self.state["weight"], self.state["bias"]).logits(clipped), axis=1)
