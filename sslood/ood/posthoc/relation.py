"""Relation: how many ID train images an image resembles, in its features and its predicted classes alike.

Kim, Kim and Song: Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier Data,
NeurIPS 2023, arXiv:2301.12321, eq. 1 and 3.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.rows import unit_rows
from sslood.core.seeding import numpy_stream
from sslood.core.settings import Auto, Settings, above, at_least
from sslood.ood.geometry.products import number, product
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs


@dataclass(frozen=True)
class RelationSettings(Settings):
    """Hyperparameters of the relation."""

    power: Annotated[float | Auto, above(0), "exponent of a similarity; large: only close images count"] = 8.0
    bank: Annotated[int, at_least(1), "ID train images compared with, drawn at random if there are more"] = (
        5000
    )


class Relation(Streaming):
    """-log of the mean over ID train images i of (max(0, cos(z, z_i)) p^T p_i)^power, p = softmax(f).

    The paper compares with every image; `bank` bounds the time, for a mean over thousands changes little.
    """

    piece = WHOLE
    reads = ("features", "logits")
    Settings = RelationSettings
    space = {"power": (1.0, 2.0, 4.0, 8.0)}  # the paper's range

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "features", "logits")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        features, logits = sums["features"].all, sums["logits"].all
        count = len(features)
        rows = np.arange(count)
        if count > self.settings.bank:
            drawn = numpy_stream(self.seed, "relation").choice(count, self.settings.bank, replace=False)
            rows = np.sort(drawn)
        p = torch.softmax(torch.from_numpy(logits[rows].astype(np.float64)), 1)
        return {"bank": unit_rows(features[rows].astype(np.float64)), "p": p.numpy()}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        cosines = product(unit_rows(parts["features"]), state["bank"].T).clamp_min(0.0)
        similar = cosines * product(torch.softmax(parts["logits"], 1), state["p"].T)
        mean = _power(similar, self.settings.power).mean(1)
        return -torch.maximum(mean, number(1e-300)).log()


def _power(values: Tensor, power: float) -> Tensor:
    """Return values >= 0 to a power; one of the usual powers of two by squares, an eighth of the time."""
    if power not in (1, 2, 4, 8, 16):
        return values ** number(power)
    for _ in range(int(power).bit_length() - 1):
        values = values * values
    return values
