"""Divergence to the k-th nearest Gaussian of ID train, in bounded memory; base of four detectors."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.needs import Need, Needs
from sslood.core.settings import Settings, at_least
from sslood.ood.geometry.gaussians import DiagonalGaussians
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs

QUERIES, BANK = 256, 8192  # one block of divergences: 16 MiB
SPARE = 16  # neighbours before and after the k-th with which rounding may have changed its place
Pair = Callable[[DiagonalGaussians, DiagonalGaussians], Tensor]


@dataclass(frozen=True)
class NearestSettings(Settings):
    """Hyperparameters of the nearest Gaussian."""

    k: Annotated[int, at_least(1), "rank of the neighbour whose divergence is the score, 1 = nearest"] = 50


def kth_divergence(
    bank: DiagonalGaussians, queries: DiagonalGaussians, k: int, pairs: Pair, rows: Pair
) -> Tensor:
    """Return the divergence of each query to its k-th nearest Gaussian of the bank: float64 [Q].

    pairs(queries, bank) -> [Q, N] ranks the bank for each query, up to rounding; rows(queries, bank) is
    the divergence of equal positions, by which those about the k-th are ranked anew. Raises InputError if k
    exceeds the bank.
    """
    if k > len(bank):
        raise InputError(f"k is {k}, but there are only {len(bank)} ID train images; choose at most that")
    found = []
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        first = max(0, k - 1 - SPARE)
        near = bank[_nearest(bank, block, min(k + SPARE, len(bank)), pairs)[:, first:]]
        each = DiagonalGaussians(block.mu[:, None], block.log_variance[:, None])
        found.append(rows(each, near).kthvalue(k - first, dim=1).values)
    return torch.cat(found).clamp_min(0)


def _nearest(bank: DiagonalGaussians, block: DiagonalGaussians, count: int, pairs: Pair) -> Tensor:
    """Return the indices in the bank of the `count` nearest of each query of a block, [Q, count]."""
    best = block.mu.new_empty(len(block), 0)
    places = torch.empty_like(best, dtype=torch.int64)
    for start in range(0, len(bank), BANK):
        values = pairs(block, bank[start : start + BANK])
        index = torch.arange(start, start + values.shape[1], device=values.device).expand_as(values)
        values, index = torch.cat([best, values], 1), torch.cat([places, index], 1)
        best, order = values.topk(min(count, values.shape[1]), dim=1, largest=False)
        places = index.gather(1, order)
    return places


class NearestGaussian(Detector):
    """Divergence between an image's Gaussian and its k-th nearest among those of ID train.

    A subclass defines `pairs` and `rows`; larger = more OOD.
    """

    reads = ("mu", "log_variance")
    searches_bank = True
    unexportable = "its bank of Gaussians is searched in blocks, which a graph cannot hold"
    Settings = NearestSettings

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return (Need(images=self.settings.k),)

    @staticmethod
    @abstractmethod
    def pairs(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        """Return what ranks the bank for each query: [Q, N]."""

    @staticmethod
    @abstractmethod
    def rows(queries: DiagonalGaussians, bank: DiagonalGaussians) -> Tensor:
        """Return the divergence of equal positions: [...] of [..., D]."""

    def _fit(self, source: Outputs) -> Arrays:
        return {part: source.need(part) for part in self.reads}

    def _score(self, parts: Tensors, state: Tensors) -> Tensor:
        bank, queries = DiagonalGaussians.of(state), DiagonalGaussians.of(parts)
        return kth_divergence(bank, queries, self.settings.k, self.pairs, self.rows)
