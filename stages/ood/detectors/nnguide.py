"""NNGuide (Park, Jung and Teoh 2023): energy guided by the nearest ID train images."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stages.ood.detector import Detector, positive
from stages.ood.directions import directions
from stages.ood.neighbours import mean_largest_product
from stages.ood.outputs import Head, Outputs


@dataclass(frozen=True)
class NnguideSettings:
    """k: neighbours averaged."""

    k: int = 10

    def __post_init__(self):
        positive("nnguide", k=self.k)


class Nnguide(Detector):
    """-S(z) * mean over the k largest S(z_i) cos(z, z_i), i over ID train, S = log sum_c exp f_c."""

    reads = ("features",)
    needs_head = True
    Settings = NnguideSettings
    space = {"k": (1, 5, 10, 20, 50, 100)}

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        energy = logsumexp(source.head.logits(source.features), axis=1)
        bank = directions(source.features) * energy[:, None].astype(np.float32)
        return {"bank": bank, **vars(source.head)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        head = Head(self.state["weight"], self.state["bias"])
        energy = logsumexp(head.logits(outputs.features), axis=1)
        guidance = mean_largest_product(
            self.state["bank"], directions(outputs.features), self.settings.k, self.device
        )
        return -energy * guidance
