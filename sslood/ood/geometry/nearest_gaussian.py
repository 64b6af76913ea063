"""Divergence to the k-th nearest Gaussian of ID train, in bounded memory; base of four detectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.ood.geometry.gaussians import Laws
from sslood.ood.kit.detector import Detector, positive
from sslood.ood.kit.outputs import Outputs

QUERIES, BANK = 256, 8192  # one block of divergences: 16 MiB
Pair = Callable[[Laws, Laws], Tensor]


@dataclass(frozen=True)
class NearestSettings:
    """k: the neighbour whose divergence counts, 1 the nearest."""

    k: int = 50

    def __post_init__(self):
        positive("stochastic", k=self.k)


@torch.inference_mode()
def kth_divergence(bank: Laws, queries: Laws, k: int, pairs: Pair, rows: Pair) -> np.ndarray:
    """Return the divergence of each query to its k-th nearest Gaussian of the bank: float64 [Q].

    pairs(queries, bank) -> [Q, N] ranks the bank for each query, rows(queries, bank) -> [N] is the
    divergence of equal places. Raises InputError if k exceeds the bank.
    """
    if k > len(bank):
        raise InputError(f"k is {k}, but there are only {len(bank)} ID train images; choose at most that")
    place = _kth_place(bank, queries, k, pairs)
    pieces = [rows(queries[i : i + BANK], bank[place[i : i + BANK]]) for i in range(0, len(queries), BANK)]
    return torch.cat(pieces).clamp_min(0).cpu().numpy()


def _kth_place(bank: Laws, queries: Laws, k: int, pairs: Pair) -> Tensor:
    """Return where the k-th nearest of each query stands in the bank, [Q]."""
    found = []
    for first in range(0, len(queries), QUERIES):
        block = queries[first : first + QUERIES]
        best = places = None
        for start in range(0, len(bank), BANK):
            values = pairs(block, bank[start : start + BANK])
            index = torch.arange(start, start + values.shape[1], device=values.device).expand_as(values)
            if best is not None:
                values, index = torch.cat([best, values], 1), torch.cat([places, index], 1)
            best, order = values.topk(min(k, values.shape[1]), dim=1, largest=False)
            places = index.gather(1, order)
        found.append(places[:, k - 1])
    return torch.cat(found)


class NearestGaussian(Detector):
    """Divergence between an image's Gaussian and its k-th nearest among those of ID train.

    A subclass names `pairs` and `rows`, both of (queries, bank); larger = more OOD.
    """

    reads = ("mu", "log_variance")
    Settings = NearestSettings
    pairs: ClassVar[Pair]
    rows: ClassVar[Pair]

    def _fit(self, source: Outputs) -> dict[str, np.ndarray]:
        return {part: getattr(source, part) for part in self.reads}

    def _score(self, outputs: Outputs) -> np.ndarray:
        bank = Laws.of(self.state["mu"], self.state["log_variance"], self.device)
        queries = Laws.of(outputs.mu, outputs.log_variance, self.device)
        kind = type(self)
        return kth_divergence(bank, queries, self.settings.k, kind.pairs, kind.rows)
