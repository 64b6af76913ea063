"""NNGuide: energy guided by the nearest ID train images.

Park, Jung and Teoh: Nearest Neighbor Guidance for Out-of-Distribution Detection, ICCV 2023, arXiv:2309.14888.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.needs import Need, Needs
from sslood.core.rows import unit_rows
from sslood.core.settings import Auto, Settings, at_least
from sslood.ood.geometry.logits import free_energy, head_state
from sslood.ood.geometry.nearest.bank import directions, mean_largest_product
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Collected, Streaming, Sums
from sslood.ood.kit.outputs import Outputs, chunks


@dataclass(frozen=True)
class NNGuideSettings(Settings):
    """Hyperparameters of NNGuide."""

    k: Annotated[int | Auto, at_least(1), "number of neighbours averaged"] = 10


class NNGuide(Streaming):
    """-S(z) * mean over the k largest S(z_i) cos(z, z_i), i over ID train, S = log sum_c exp f_c.

    Batches and shards add to the bank, whose memory is N * D * 4 bytes.
    """

    piece = WHOLE
    reads = ("features",)
    needs_head = True
    searches_bank = True
    Settings = NNGuideSettings
    space = {"k": (1, 5, 10, 20, 50, 100)}  # the paper's default 10 and what surrounds it

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return (Need(images=self.settings.k),)

    def _gather(self, source: Outputs) -> Sums:
        features = source.need("features")
        head = {key: torch.from_numpy(array) for key, array in head_state(source.need_head()).items()}
        bank = directions(features)
        for rows, out in zip(chunks(features), chunks(bank), strict=True):
            energy = free_energy(head, torch.from_numpy(rows.astype(np.float64)))
            out *= -energy.numpy()[:, None].astype(np.float32)
        return {"bank": Collected((bank,))}

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        return {"bank": sums["bank"].all, **head_state(source.need_head())}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        queries = unit_rows(parts["features"]).float()
        return free_energy(state, parts["features"]) * mean_largest_product(
            state["bank"], queries, self.settings.k
        )
