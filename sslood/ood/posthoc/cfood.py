"""CFOOD: the smallest neighbourhoods of ID train images that an image belongs to.

After the implementation in OpenOOD of November 2025 (cfood_postprocessor), as no paper of it was at hand.
"""

from dataclasses import dataclass
from math import ceil
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sslood.core.needs import Need
from sslood.core.rows import unit_rows
from sslood.core.seeding import numpy_stream
from sslood.core.settings import Auto, Settings, at_least, inside
from sslood.ood.geometry.products import product
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.fitting import WHOLE, Streaming, Sums, collected
from sslood.ood.kit.outputs import Outputs, chunks

SHARES = np.concatenate(
    [np.linspace(0.001, 0.1, 100), np.linspace(0.105, 0.5, 81), np.linspace(0.51, 0.99, 49)]
)
STEP = (
    2.0**30
)  # distances are multiples of its inverse: processors round products apart, and equals must be equal


@dataclass(frozen=True)
class CFOODSettings(Settings):
    """Hyperparameters of CFOOD."""

    quorum: Annotated[
        float | Auto, inside(0, 1), "share of the ID train images whose neighbourhood must hold the image"
    ] = 0.01
    bank: Annotated[int, at_least(2), "ID train images compared with, drawn at random if there are more"] = (
        2000
    )


class CFOOD(Streaming):
    """Smallest share s in (0, 1] so that `quorum` of the bank have the image among the nearest s of the bank.

    Distances are those of directions. s is one of 230 shares from 0.001 to 0.99, or 1: many images share a
    score. OpenOOD's bank is a tenth of ID train.
    """

    piece = WHOLE
    reads = ("features",)
    needs = (Need(images=2),)
    Settings = CFOODSettings
    space = {"quorum": (0.005, 0.01, 0.05, 0.1)}  # about OpenOOD's 0.01

    def _gather(self, source: Outputs) -> Sums:
        return collected(source, "features")

    def _conclude(self, sums: Sums, source: Outputs) -> Arrays:
        features = sums["features"].all
        rows, most = np.arange(len(features)), self.settings.bank
        if len(rows) > most:
            rows = np.sort(numpy_stream(self.seed, "cfood").choice(len(rows), most, replace=False))
        bank = unit_rows(features[rows].astype(np.float64))
        place = np.maximum(SHARES * len(bank) - 1, 0).astype(np.int64)
        place, first = np.unique(place, return_index=True)
        tensor = torch.from_numpy(bank)
        radii = [
            _squares(torch.from_numpy(one), tensor).sort(1).values[:, place + 1] for one in chunks(bank, 512)
        ]
        # shares as columns, so that the radii of one share lie side by side
        return {
            "bank": bank,
            "radii": torch.cat(radii).T.contiguous().numpy(),
            "shares": np.append(SHARES[first], 1.0),
        }

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        squares, radii = _squares(unit_rows(parts["features"]), state["bank"]), state["radii"]
        quorum = ceil(self.settings.quorum * len(state["bank"]) - 1e-9)
        low = torch.zeros_like(squares[:, 0]).long()  # the first share that suffices lies from low on, and
        high = low + len(radii)  # is high at most; radii grow with the share
        for _ in range(len(radii).bit_length()):
            middle = (low + high) // 2
            known = radii[middle.clamp_max(len(radii) - 1)]
            enough = ((known >= squares).double().sum(1) >= quorum) | (middle >= high)
            low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
        return state["shares"][high]


def _squares(rows: Tensor, bank: Tensor) -> Tensor:
    """Return squared distances of rows [n, D] and the bank [N, D], each of length one or zero: [n, N]."""
    squares = (rows * rows).sum(1)[:, None] + (bank * bank).sum(1) - 2.0 * product(rows, bank.T)
    return (squares * STEP).round() / STEP
