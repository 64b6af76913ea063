"""Divergence to the k-th nearest Gaussian of ID train, in bounded memory; base of four detectors."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.needs import Need, Needs
from sslood.core.settings import Settings, at_least
from sslood.ood.geometry.gaussians import DiagonalGaussians
from sslood.ood.kit.detector import Arrays, Detector, Tensors
from sslood.ood.kit.outputs import Outputs

QUERIES, BANK = 256, 8192  # one block of divergences: 16 MiB
AT_ONCE = 4  # times QUERIES: whose bounds are taken together, since a bank is prepared for each block
SPARE = 16  # neighbours before and after the k-th with which rounding may have changed its place
LOOSE = 8  # times k: of so many the divergence is summed, where bounds rank the bank
SUMMED = 1 << 21  # terms of divergences at a time
Pair = Callable[[DiagonalGaussians, DiagonalGaussians], Tensor]


@dataclass(frozen=True)
class NearestSettings(Settings):
    """Hyperparameters of the nearest Gaussian."""

    k: Annotated[int, at_least(1), "rank of the neighbour whose divergence is the score, 1 = nearest"] = 50


def kth_divergence(
    bank: DiagonalGaussians,
    queries: DiagonalGaussians,
    k: int,
    pairs: Pair,
    rows: Pair,
    error: float = 0.0,
    bounds: Pair | None = None,
) -> Tensor:
    """Return the divergence of each query to its k-th nearest Gaussian of the bank: float64 [Q].

    pairs(queries, bank) -> [Q, N] ranks the bank for each query, up to rounding; rows(queries, bank) is
    the divergence of equal positions, by which those about the k-th are ranked anew; of a query whose
    neighbours there differ by less than the rounding error of `pairs`, the whole bank is. error: that error,
    as a share of a divergence or, of small ones, of the dimensions. bounds: what divergences are at least,
    [Q, N], where that takes less time than `pairs`, which then serves the queries that bounds leave open.
    Raises InputError if k exceeds the bank.
    """
    if k > len(bank):
        raise InputError(f"k is {k}, but there are only {len(bank)} ID train images; choose at most that")
    values = torch.empty_like(queries.mu[:, 0])
    left = torch.arange(len(queries), device=values.device)
    if bounds is not None and LOOSE * k + SPARE < len(bank):
        blocks = [_bounded(bank, queries[block], k, bounds, rows) for block in left.split(AT_ONCE * QUERIES)]
        values, unsure = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        left = left[unsure]
    for block in left.split(QUERIES) if len(left) else ():
        values[block] = _ranked(bank, queries[block], k, pairs, rows, error)
    return values.clamp_min(0)


def _bounded(
    bank: DiagonalGaussians, block: DiagonalGaussians, k: int, bounds: Pair, rows: Pair
) -> tuple[Tensor, Tensor]:
    """Return (k-th smallest divergence of those with the lowest bounds, whether another may be smaller)."""
    count = LOOSE * k + SPARE
    lowest, places = _nearest(bank, block, count + 1, bounds)
    step = max(1, SUMMED // (count * block.mu.shape[1]))
    parts = []
    for start in range(0, len(block), step):
        part = block[start : start + step]
        each = DiagonalGaussians(part.mu[:, None], part.log_variance[:, None])
        parts.append(rows(each, bank[places[start : start + step, :count]]).kthvalue(k, dim=1).values)
    values = torch.cat(parts)
    return values, ~(lowest[:, -1] >= values)  # a bound that is NaN decides nothing


def _ranked(
    bank: DiagonalGaussians, block: DiagonalGaussians, k: int, pairs: Pair, rows: Pair, error: float
) -> Tensor:
    """Return the k-th smallest divergence of each query, ranked by `pairs` and then by `rows`."""
    first, last = max(0, k - 1 - SPARE), min(k + SPARE, len(bank))
    ranked, places = _nearest(bank, block, last, pairs)
    each = DiagonalGaussians(block.mu[:, None], block.log_variance[:, None])
    values = rows(each, bank[places[:, first:]]).kthvalue(k - first, dim=1).values
    margin = 2 * error * (block.mu.shape[1] + ranked[:, k - 1])
    unsure = (ranked[:, k - 1] - ranked[:, first] < margin) & (first > 0)
    unsure |= (ranked[:, -1] - ranked[:, k - 1] < margin) & (last < len(bank))
    for i in torch.nonzero(unsure).flatten().tolist():
        pieces = (bank[begin : begin + BANK] for begin in range(0, len(bank), BANK))
        values[i] = torch.cat([rows(block[i : i + 1], piece) for piece in pieces]).kthvalue(k).values
    return values


def _nearest(
    bank: DiagonalGaussians, block: DiagonalGaussians, count: int, pairs: Pair
) -> tuple[Tensor, Tensor]:
    """Return (values of `pairs` ascending, indices in the bank) of the nearest of each query, [Q, count]."""
    best = block.mu.new_empty(len(block), 0)
    places = torch.empty_like(best, dtype=torch.int64)
    for start in range(0, len(bank), BANK):
        values = pairs(block, bank[start : start + BANK])
        values, index = values.topk(min(count, values.shape[1]), dim=1, largest=False, sorted=False)
        values, index = torch.cat([best, values], 1), torch.cat([places, index + start], 1)
        best, order = values.topk(min(count, values.shape[1]), dim=1, largest=False)
        places = index.gather(1, order)
    return best, places


class NearestGaussian(Detector):
    """Divergence between an image's Gaussian and its k-th nearest among those of ID train.

    A subclass defines `pairs`, its rounding `error` if it is not float64's, and `rows`; larger = more OOD.
    """

    error: ClassVar[float] = 0.0

    reads = ("mu", "log_variance")
    searches_bank = True
    unexportable = "its bank of Gaussians is searched in blocks, which a graph cannot hold"
    Settings = NearestSettings

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return (Need(images=self.settings.k),)

    @property
    def bounds(self) -> Pair | None:
        """What says how large each divergence is at least, [Q, N], if that is quicker than `pairs`."""
        return None

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
        return kth_divergence(bank, queries, self.settings.k, self.pairs, self.rows, self.error, self.bounds)
