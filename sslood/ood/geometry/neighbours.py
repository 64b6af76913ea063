"""Exact nearest neighbours by products and partial sorting, in bounded memory."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.core.processor import multiplies_bf16
from sslood.ood.geometry.pieces import in_pieces
from sslood.ood.geometry.shortlist import (
    GROUP,
    BFloat16,
    Few,
    Float32,
    closer,
    longest,
    shortlist,
    table_of,
)

QUERIES, BANK = 512, 65536  # one block of similarities: 128 MiB
COLUMNS = 64  # that first compete by their largest product
PIECE = 32  # queries whose candidates are judged at a time
WIDE = 128  # features of fewer dimensions spend more time on sorting than on products
MANY = 128  # queries for which preparing the bank pays
Judge = Callable[[np.ndarray, Few], np.ndarray]
Way = Callable[[np.ndarray], np.ndarray | None]


def kth_distance(bank: np.ndarray, queries: np.ndarray, k: int, device: str = "cpu") -> np.ndarray:
    """Return the Euclidean distance of each query to its k-th nearest row of the bank: float64 [Q].

    bank float32 [N, D] and queries float32 [Q, D] of one length (L2-normalised, or zero), so that the
    nearest rows are those of the largest products. The distance itself is summed from float64
    differences: 2 - 2 cos would lose it between near-duplicates. Raises InputError if k exceeds N.
    """
    if k > len(bank):
        raise InputError(
            f"knn.k is {k}, but there are only {len(bank)} ID train images; choose at most {len(bank)}"
        )

    width, (bank, queries) = bank.shape[1], _levelled(bank, queries)
    length = longest(bank)

    def judge(block: np.ndarray, few: Few) -> np.ndarray:
        if len(few.row) > len(block):
            few = closer(bank, block, few, k, length)
        gap = bank.take(few.row, axis=0)[:, :width].astype(np.float64)
        gap -= block.take(few.query, axis=0)[:, :width]
        squares = table_of(np.einsum("nd,nd->n", gap, gap), few.query, len(block), np.inf)
        squares.sort(axis=1)
        return np.sqrt(squares[np.arange(len(block)), k - 1 - few.sure])

    return _judged(judge, bank, queries, k, device, sure=True)


def mean_largest_product(bank: np.ndarray, queries: np.ndarray, k: int, device: str = "cpu") -> np.ndarray:
    """Return the mean of each query's k largest products with rows of the bank: float64 [Q].

    bank float32 [N, D], queries float32 [Q, D]; products in float64. Raises InputError if k exceeds N.
    """
    if k > len(bank):
        raise InputError(f"k is {k}, but there are only {len(bank)} ID train images; lower it")

    def judge(block: np.ndarray, few: Few) -> np.ndarray:
        rows, others = bank.take(few.row, axis=0), block.take(few.query, axis=0)
        products = np.einsum("nd,nd->n", rows, others, dtype=np.float64)
        table = table_of(products, few.query, len(block), -np.inf)
        table.sort(axis=1)
        return table[:, -k:].mean(axis=1)

    return _judged(judge, bank, queries, k, device, sure=False)


def _levelled(bank: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bank and queries of which larger products mean nearer rows even where rows are zero.

    q b - |b|^2 / 2 falls with the distance: rows of length one get a 0 more, those of length zero 1/2.
    """
    zero = ~bank.any(axis=1)
    if not zero.any():
        return bank, queries
    return (
        np.column_stack([bank, np.float32(0.5) * zero]).astype(np.float32),
        np.column_stack([queries, np.ones(len(queries), np.float32)]),
    )


@torch.inference_mode()
def _judged(judge: Judge, bank: np.ndarray, queries: np.ndarray, k: int, device: str, *, sure: bool):
    """Return judge(queries, few) of all queries: float64 [Q]; see `shortlist` for `sure`."""
    result = np.empty(len(queries))
    ways = _ways(judge, bank, min(QUERIES, len(queries)), k, device, sure)
    way = next(ways)
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        while (found := way(block)) is None:
            way = next(ways)  # and for the blocks to come
        result[start : start + len(block)] = found
    return result


def _ways(judge: Judge, bank: np.ndarray, queries: int, k: int, device: str, sure: bool) -> Iterator[Way]:
    """Yield ways to judge a block of queries, the fastest first; the last never gives up."""
    if device == "cpu" and max(2 * k, GROUP) * GROUP <= len(bank) <= BANK and queries >= MANY:
        if bank.shape[1] >= WIDE and multiplies_bf16():
            yield partial(_shortlisted, BFloat16(bank, queries), judge, k, sure)
        yield partial(_shortlisted, Float32(bank, queries), judge, k, sure)
    products = _products(bank, queries, device)
    yield lambda block: judge(block, _sorted(products, len(bank), block, k, sure))


def _shortlisted(way: Float32 | BFloat16, judge: Judge, k: int, sure: bool, block: np.ndarray):
    """Return judge(block, few), or None if products of this precision do not single out a few."""
    form, margin = way.products(block)
    result, failed = np.empty(len(block)), []

    def some(piece: slice) -> None:
        few = None if failed else shortlist(way, form[piece], margin[piece], k, sure=sure)
        if few is None:
            failed.append(piece)
        else:
            result[piece] = judge(block[piece], few)

    in_pieces(lambda: some, len(block), PIECE)
    return None if failed else result


def _sorted(products, count: int, block: np.ndarray, k: int, sure: bool) -> Few:
    """Return the k rows of largest product (all but the k-th as sure, if `sure`), as float32 ranks them."""
    best = places = None
    for first in range(0, count, BANK):
        values, index = _largest(products(block, first), k)
        index = index + first
        if best is not None:
            values, index = torch.cat([best, values], dim=1), torch.cat([places, index], dim=1)
            values, order = values.topk(min(k, values.shape[1]), dim=1)
            index = index.gather(1, order)
        best, places = values, index
    known = k - 1 if sure else 0
    rows = places.cpu().numpy()[:, known:]
    query = np.repeat(np.arange(len(block)), rows.shape[1])
    return Few(query, rows.ravel(), np.full(len(block), known))


def _products(bank: np.ndarray, count: int, device: str):
    """Return a function (queries [q, D], first) -> their products with the bank's rows from `first`, [q, .].

    On a CPU numpy multiplies: its BLAS does twice the work of torch's on AMD and the same on Intel. The
    products lie in one buffer, as fresh memory of this size costs as much as a tenth of the product.
    """
    if device != "cpu":
        rows = torch.from_numpy(bank).to(device)
        return lambda block, first: torch.from_numpy(block).to(device) @ rows[first : first + BANK].T
    buffer = np.empty(count * min(BANK, len(bank)), np.float32)

    def multiply(block: np.ndarray, first: int) -> torch.Tensor:
        part = bank[first : first + BANK]
        out = buffer[: len(block) * len(part)].reshape(len(block), len(part))
        return torch.from_numpy(np.matmul(block, part.T, out=out))

    return multiply


def _largest(products: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (values, columns) of the k largest entries of each row [q, n], largest first; all if n < k.

    Neighbouring columns compete in groups first, by their maximum: at most k groups hold an entry of the
    k largest, and the k groups of largest maximum are such. One pass over the entries, and sorting of few.
    """
    count = products.shape[1]
    width = count // COLUMNS
    if width <= 2 * k:
        return products.topk(min(k, count), dim=1)
    whole = COLUMNS * width
    heads = products[:, :whole].unflatten(1, (width, COLUMNS)).amax(dim=2).topk(k, dim=1).indices
    columns = (heads[:, :, None] * COLUMNS + torch.arange(COLUMNS, device=products.device)).flatten(1)
    rest = torch.arange(whole, count, device=products.device).expand(len(products), -1)
    columns = torch.cat([columns, rest], dim=1)
    values, order = products.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, order)
