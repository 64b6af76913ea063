"""Exact nearest rows of a bank: the one door to this folder.

The rows of largest product are found in float32, or in bfloat16 where the processor multiplies it, with
proven error bounds (`shortlist`); what they leave undecided, and small banks, are computed in float64. So the
result is that of brute force in float64, on every processor.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.processor import multiplies_bf16
from sslood.core.rows import unit_rows
from sslood.ood.geometry.nearest.shortlist import (
    GROUP,
    BFloat16,
    Few,
    Float32,
    closer,
    longest,
    shortlist,
    table_of,
)
from sslood.ood.geometry.products import length, product
from sslood.ood.kit.outputs import chunks
from sslood.ood.kit.pieces import in_pieces, pieces

QUERIES, BANK = 512, 65536  # one block of float32 products: 128 MiB; of a larger bank fewer queries,
FEWEST, LARGEST = 64, 2**22  # but not below these, nor for a bank above
ROWS = 2**24  # products, or numbers of the bank, in one block of float64: 128 MiB
PIECE = 32  # queries whose candidates are decided at a time
WIDE = 128  # features of fewer dimensions spend more time on selecting than on products
MANY = 128  # queries for which preparing the bank pays
Decide = Callable[[np.ndarray, Few], np.ndarray]


def directions(rows: np.ndarray) -> np.ndarray:
    """Return rows [N, D] divided by their length, float32, without a float64 copy of all of them."""
    result = np.empty(rows.shape, np.float32)
    for piece, out in zip(chunks(rows), chunks(result), strict=True):
        out[:] = unit_rows(piece.astype(np.float64))
    return result


def kth_distance(bank: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return the Euclidean distance of each query to its k-th nearest row of the bank: float64 [Q].

    bank [N, D] and queries [Q, D], float32, of length one or zero. The distance is summed from float64
    differences: 2 - 2 cos would lose it between near-duplicates. Raises InputError if k exceeds N.
    """
    if k > len(bank):
        raise InputError(
            f"k is {k}, but there are only {len(bank)} ID train images; choose at most {len(bank)}"
        )
    if _worth_a_shortlist(bank, queries, k) and bool(bank.any(1).all()):
        return _kth_distance_by_shortlist(bank.numpy(), queries.numpy(), k)
    # q b - |b|^2 / 2 falls as the distance rises, also where rows are zero
    rows = _largest(bank, queries, k, _half_squares)[1][:, k - 1]
    return length(queries.double() - bank[rows].double())


def mean_largest_product(bank: Tensor, queries: Tensor, k: int) -> Tensor:
    """Return the mean of each query's k largest products with rows of the bank: float64 [Q].

    bank [N, D] and queries [Q, D], float32; products in float64. Raises InputError if k exceeds N.
    """
    if k > len(bank):
        raise InputError(
            f"k is {k}, but there are only {len(bank)} ID train images; choose at most {len(bank)}"
        )
    if _worth_a_shortlist(bank, queries, k):
        return _mean_largest_by_shortlist(bank.numpy(), queries.numpy(), k)
    return _largest(bank, queries, k, _nothing)[0].mean(1)


def _half_squares(rows: Tensor) -> Tensor:
    """Return half the squared length of float64 rows [N, D]: [N]."""
    return 0.5 * (rows**2).sum(1)


def _nothing(rows: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.float64, device=rows.device)


def _largest(
    bank: Tensor, queries: Tensor, k: int, less: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the k largest of product - less, largest first, and their rows: float64 and int64 [Q, k].

    The bank is taken in blocks of `ROWS` numbers: as a whole it would lie in memory twice more, in float64.
    """
    if torch.compiler.is_exporting():
        whole = bank.double()
        return torch.topk(queries.double() @ whole.T - less(whole), k, dim=1)
    width = min(len(bank), max(k, ROWS // bank.shape[1]))
    parts = pieces(len(queries), max(1, ROWS // width))
    best: list[tuple[Tensor, Tensor]] = []
    for block in pieces(len(bank), width):
        rows = bank[block].double()
        wide, off = rows.T, less(rows)
        for place, part in enumerate(parts):
            values, row = (product(queries[part].double(), wide) - off).topk(min(k, len(rows)), dim=1)
            if block.start:
                best[place] = _larger(best[place], (values, row + block.start), k)
            else:
                best.append((values, row))
    return torch.cat([values for values, _ in best]), torch.cat([rows for _, rows in best])


def _larger(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of two blocks and their rows, both [Q, k]."""
    values, rows = (torch.cat(both, dim=1) for both in zip(one, other, strict=True))
    largest = values.topk(k, dim=1)
    return largest.values, rows.gather(1, largest.indices)


def _worth_a_shortlist(bank: Tensor, queries: Tensor, k: int) -> bool:
    if torch.compiler.is_exporting() or bank.device.type != "cpu":
        return False
    return max(2 * k, GROUP) * GROUP <= len(bank) <= LARGEST and len(queries) >= MANY


def _kth_distance_by_shortlist(bank: np.ndarray, queries: np.ndarray, k: int) -> Tensor:
    blank = ~np.any(queries, axis=1, keepdims=True)  # rows of zeros, of equal products with all rows
    queries, length_of_bank = np.where(blank, bank[0], queries), longest(bank)

    def decide(block: np.ndarray, few: Few) -> np.ndarray:
        if len(few.row) > len(block):
            few = closer(bank, block, few, k, length_of_bank)
        gap = bank.take(few.row, axis=0).astype(np.float64)
        gap -= block.take(few.query, axis=0)
        squares = table_of(np.einsum("nd,nd->n", gap, gap), few.query, len(block), np.inf)
        squares.sort(axis=1)
        return np.sqrt(squares[np.arange(len(block)), k - 1 - few.sure])

    def exactly(block: np.ndarray) -> np.ndarray:
        rows = _largest(torch.from_numpy(bank), torch.from_numpy(block), k, _half_squares)[1][
            :, k - 1
        ].numpy()
        return np.linalg.norm(block.astype(np.float64) - bank[rows], axis=1)

    result = _decided(decide, exactly, bank, queries, k, sure=True)
    if blank.any():
        result[torch.from_numpy(blank[:, 0])] = length(torch.from_numpy(bank).double()).kthvalue(k).values
    return result


def _mean_largest_by_shortlist(bank: np.ndarray, queries: np.ndarray, k: int) -> Tensor:
    def decide(block: np.ndarray, few: Few) -> np.ndarray:
        rows, others = bank.take(few.row, axis=0), block.take(few.query, axis=0)
        products = np.einsum("nd,nd->n", rows, others, dtype=np.float64)
        table = table_of(products, few.query, len(block), -np.inf)
        table.sort(axis=1)
        return table[:, -k:].mean(axis=1)

    def exactly(block: np.ndarray) -> np.ndarray:
        return _largest(torch.from_numpy(bank), torch.from_numpy(block), k, _nothing)[0].mean(1).numpy()

    return _decided(decide, exactly, bank, queries, k, sure=False)


def _decided(
    decide: Decide,
    exactly: Callable[[np.ndarray], np.ndarray],
    bank: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    sure: bool,
) -> Tensor:
    """Return decide(queries, few) of all queries, float64 [Q]; see `shortlist` for `sure`.

    A precision that cannot single out a few rows is given up for the blocks to come, too.
    """
    result = np.empty(len(queries))
    size = min(QUERIES, max(FEWEST, QUERIES * BANK // len(bank)), len(queries))
    precisions = _precisions(bank, size)
    precision = next(precisions)
    for rows in pieces(len(queries), size):
        block, found = queries[rows], None
        while precision is not None and found is None:
            found = _shortlisted(precision, decide, k, sure, block)
            if found is None:
                precision = next(precisions)
        result[rows] = exactly(block) if found is None else found
    return torch.from_numpy(result)


def _precisions(bank: np.ndarray, queries: int) -> Iterator[Float32 | BFloat16 | None]:
    """Yield the precisions to try, the fastest first, then None."""
    if bank.shape[1] >= WIDE and multiplies_bf16():
        yield BFloat16(bank, queries)
    yield Float32(bank, queries)
    yield None


def _shortlisted(
    precision: Float32 | BFloat16, decide: Decide, k: int, sure: bool, block: np.ndarray
) -> np.ndarray | None:
    """Return decide(block, few), or None if products of this precision do not single out a few."""
    keys, margin = precision.products(block)
    result = np.empty(len(block))
    failed: list[slice] = []

    def compute(piece: slice) -> None:
        few = None if failed else shortlist(precision, keys[piece], margin[piece], k, sure=sure)
        if few is None:
            failed.append(piece)
        else:
            result[piece] = decide(block[piece], few)

    in_pieces(compute, len(block), PIECE)
    return None if failed else result
