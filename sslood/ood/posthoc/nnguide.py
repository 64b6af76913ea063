"""NNGuide (Park, Jung and Teoh 2023): energy guided by the nearest ID train images."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.special import logsumexp

from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.directions import directions
from sslood.ood.geometry.neighbours import mean_largest_product
from sslood.ood.kit.fitting import Rows, Streaming, Sums
from sslood.ood.kit.outputs import Head, Outputs


@dataclass(frozen=True)
class NnguideSettings(Settings):
    k: Annotated[int | Auto, at_least(1), "number of neighbours averaged"] = 10


class Nnguide(Streaming):
    """-S(z) * mean over the k largest S(z_i) cos(z, z_i), i over ID train, S = log sum_c exp f_c.

    Batches and shards add to the bank, of which the memory is N * D * 4 bytes.
    """

    reads = ("features",)
    needs_head = True
    Settings = NnguideSettings
    space = {"k": (1, 5, 10, 20, 50, 100)}

    def _gather(self, source: Outputs) -> Sums:
        energy = logsumexp(source.head.logits(source.features), axis=1)
        return {"bank": Rows((directions(source.features) * energy[:, None].astype(np.float32),))}

    def _conclude(self, sums: Sums, source: Outputs) -> dict[str, np.ndarray]:
        return {"bank": sums["bank"].all, **vars(source.head)}

    def _score(self, outputs: Outputs) -> np.ndarray:
        head = Head(self.state["weight"], self.state["bias"])
        energy = logsumexp(head.logits(outputs.features), axis=1)
        guidance = mean_largest_product(
            self.state["bank"], directions(outputs.features), self.settings.k, self.device
        )
        return -energy * guidance
