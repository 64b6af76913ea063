"""The rows that are, or may be, the k of largest product, from products with a proven error.

A processor that multiplies bfloat16 does so twice as fast as float32. With |computed - true| <= e for every
product of a query, the k-th largest computed product t is within e of the true k-th largest (order
statistics move no further than the values themselves), hence a row of more than t + 2e is among the k, and
one of less than t - 2e is not. Only those between need a closer look, so the result is exact.
"""

from dataclasses import dataclass

import numpy as np
import torch

PAIRS = 256
GROUP = 32  # products whose maximum is compared first
MOST = 8  # average candidates per place among the k, above which a precision is too coarse
UNIT = 2.0**-24  # largest relative error of one rounding to float32
UNIT_BF16 = 2.0**-8


@dataclass(frozen=True)
class Few:
    """Pairs (query, row) [P] to choose from, queries ascending, and the number of sure rows per query [q].

    The k rows of largest product of a query are the sure ones, and k - sure of its pairs.
    """

    query: np.ndarray
    row: np.ndarray
    sure: np.ndarray


class Float32:
    """Products by numpy: its BLAS does up to twice the work of torch's on AMD and the same on Intel.

    They share one buffer, as fresh memory of this size costs as much as a tenth of the product.
    """

    unit = 0.0  # relative error of the last rounding beyond that of the sum

    def __init__(self, bank: np.ndarray, queries: int):
        self.bank, self.length = bank, longest(bank)
        self.buffer = np.empty(queries * len(bank), np.float32)

    def products(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (keys [q, N] that rank as the products do, twice the largest error [q])."""
        out = self.buffer[: len(queries) * len(self.bank)].reshape(len(queries), -1)
        return np.matmul(queries, self.bank.T, out=out), sum_margin(queries, self.length)

    def values(self, keys: np.ndarray) -> np.ndarray:
        """Return the products, float32, of some keys."""
        return keys

    def threshold(self, bounds: np.ndarray) -> np.ndarray:
        """Return keys at most, and close to, the bounds [q] that `rounded` gave."""
        return np.nextafter(bounds.astype(np.float32), np.float32(-np.inf))

    def rounded(self, bounds: np.ndarray) -> np.ndarray:
        """Return bounds [q], rounded as the products were."""
        return bounds


class BFloat16:
    """Products by torch in bfloat16, summed in float32 and rounded once more, as 16-bit integers.

    Rounding keeps order: it widens a bound by half a unit once, and then rounds it as it did the products.
    The integers rank as the products do from zero up, and those below zero stay below.
    """

    unit = UNIT_BF16

    def __init__(self, bank: np.ndarray, queries: int):
        wide = torch.from_numpy(bank)
        self.bank, self.length = wide.bfloat16(), longest(bank)
        # in pieces: a float32 copy of the bank would double its memory
        pairs = zip(wide.split(4096), self.bank.split(4096), strict=True)
        self.gap = 1.001 * max(float((one - other.float()).norm(dim=1).max()) for one, other in pairs)
        self.buffer = torch.empty(queries * len(bank), dtype=torch.bfloat16)

    def products(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide = torch.from_numpy(queries)
        narrow = wide.bfloat16()
        out = self.buffer[: len(queries) * len(self.bank)].view(len(queries), -1)
        torch.mm(narrow, self.bank.T, out=out)
        rounded = narrow.float().numpy()
        gap, length = np.linalg.norm(queries - rounded, axis=1), np.linalg.norm(rounded, axis=1)
        margin = 2.002 * (gap * self.length + length * self.gap)
        # a processor may round products and sums apart
        return out.view(torch.int16).numpy(), margin + 2.0 * sum_margin(rounded, self.length + self.gap)

    def values(self, keys: np.ndarray) -> np.ndarray:
        return (keys.astype(np.int32) << 16).view(np.float32)

    def threshold(self, bounds: np.ndarray) -> np.ndarray:
        return torch.from_numpy(bounds).bfloat16().view(torch.int16).numpy()

    def rounded(self, bounds: np.ndarray) -> np.ndarray:
        return torch.from_numpy(bounds).bfloat16().float().numpy()


def longest(rows: np.ndarray) -> float:
    """Length of the longest row, rounded up."""
    return 1.001 * float(np.sqrt(np.einsum("nd,nd->n", rows, rows).max()))


def sum_margin(queries: np.ndarray, length: float) -> np.ndarray:
    """Return twice the largest error of float32 products with rows no longer than `length`: float64 [q].

    D u |q| |b|, u half a unit, holds for sums of D products in any order (Higham 2002, eq. 3.5).
    """
    return 2.02 * queries.shape[1] * UNIT * length * np.linalg.norm(queries, axis=1).astype(np.float64)


def shortlist(
    precision: Float32 | BFloat16, keys: np.ndarray, margin: np.ndarray, k: int, *, sure: bool
) -> Few | None:
    """Return the rows that may be among the k of largest product; those that surely are, if `sure`, as a
    count.

    None if there would be more than `MOST` * k rows per query: then the products lie too close together for
    this precision. The bank has at least GROUP * max(GROUP, 2k) rows.
    """
    width, most = keys.shape[1] // GROUP, MOST * k * len(keys)
    heads = precision.values(_maxima(keys, width))
    # any k groups have k maxima, so the k-th largest maximum is no more than the k-th largest product
    low = _bound(precision, _kth(heads, k), -margin)
    if precision.unit and not (low > 0).all():
        return None
    places = np.flatnonzero(keys >= precision.threshold(low)[:, None])
    if len(places) > most:
        return None
    query, row = np.divmod(places, keys.shape[1])
    values = precision.values(keys.ravel().take(places))
    kth = _kth(table_of(values, query, len(keys), -np.inf), k)
    between = values >= _bound(precision, kth, -margin)[query]
    clear = values > _bound(precision, kth, margin)[query] if sure else np.zeros_like(between)
    between &= ~clear
    return Few(query[between], row[between], np.bincount(query[clear], minlength=len(keys)))


def closer(bank: np.ndarray, queries: np.ndarray, few: Few, k: int, length: float) -> Few:
    """Return fewer pairs, from their own products in float32; no row of the bank is longer than `length`."""
    count, values = len(queries), np.empty(len(few.row), np.float32)
    for start in range(0, len(values), PAIRS):  # that stay in the cache of a core
        pairs = slice(start, start + PAIRS)
        rows, others = bank.take(few.row[pairs], axis=0), queries.take(few.query[pairs], axis=0)
        values[pairs] = np.einsum("nd,nd->n", rows, others)
    table = np.sort(table_of(values, few.query, count, -np.inf), axis=1)
    kth = table[np.arange(count), table.shape[1] - (k - few.sure)].astype(np.float64)
    margin = sum_margin(queries, length)
    clear = values > (kth + margin)[few.query]
    between = ~clear & (values >= (kth - margin)[few.query])
    sure = few.sure + np.bincount(few.query[clear], minlength=count)
    return Few(few.query[between], few.row[between], sure)


def table_of(values: np.ndarray, query: np.ndarray, count: int, fill: float) -> np.ndarray:
    """Return values [P] of queries [P], ascending, as a table [count, most], short rows filled up."""
    counts = np.bincount(query, minlength=count)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((count, int(counts.max(initial=1))), fill, values.dtype)
    table[query, place] = values
    return table


def _bound(precision: Float32 | BFloat16, kth: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return the computed product of a row that is `margin` above the k-th, or below it if negative."""
    return precision.rounded(kth + precision.unit * np.copysign(kth, margin) + margin)


def _kth(values: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th largest of each row [q, n]: float64 [q]."""
    place = values.shape[1] - k
    return np.partition(values, place, axis=1)[:, place].astype(np.float64)


def _maxima(keys: np.ndarray, width: int) -> np.ndarray:
    """Return the maxima of groups: of columns j, j + width, j + 2 width, … of [q, n]: [q, width]."""
    whole = GROUP * width
    maxima = keys[:, :whole].reshape(len(keys), GROUP, width).max(axis=1)
    rest = maxima[:, : keys.shape[1] - whole]
    np.maximum(rest, keys[:, whole:], out=rest)
    return maxima
