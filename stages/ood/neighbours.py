"""Exact nearest neighbours by products and partial sorting, in bounded memory."""

from collections.abc import Iterator

import numpy as np
import torch

from stages.core.errors import InputError

QUERIES, BANK = 512, 65536  # one block of similarities: 128 MiB
GROUP = 64  # columns that first compete by their largest product


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
    result = np.empty(len(queries))
    for rows, places in _blocks(bank, queries, k, device):
        gap = queries[rows].astype(np.float64) - bank[places[:, k - 1]]
        result[rows] = np.sqrt(np.einsum("nd,nd->n", gap, gap))
    return result


def mean_largest_product(bank: np.ndarray, queries: np.ndarray, k: int, device: str = "cpu") -> np.ndarray:
    """Return the mean of each query's k largest products with rows of the bank: float64 [Q].

    bank float32 [N, D], queries float32 [Q, D]. The rows are found in float32, their products are summed
    in float64. Raises InputError if k exceeds N.
    """
    if k > len(bank):
        raise InputError(f"k is {k}, but there are only {len(bank)} ID train images; lower it")
    result = np.empty(len(queries))
    for rows, places in _blocks(bank, queries, k, device):
        total = np.zeros((len(places), bank.shape[1]))
        for column in places.T:
            total += bank[column]
        result[rows] = np.einsum("nd,nd->n", total, queries[rows]) / k
    return result


@torch.inference_mode()
def _blocks(bank: np.ndarray, queries: np.ndarray, k: int, device: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of the queries, int64 [., k]: their k rows of largest product, largest first)."""
    products = _products(bank, min(QUERIES, len(queries)), device)
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        best = places = None
        for first in range(0, len(bank), BANK):
            values, index = _largest(products(block, first), k)
            index = index + first
            if best is not None:
                values, index = torch.cat([best, values], dim=1), torch.cat([places, index], dim=1)
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                index = index.gather(1, order)
            best, places = values, index
        yield slice(start, start + len(block)), places.cpu().numpy()


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
    width = count // GROUP
    if width <= 2 * k:
        return products.topk(min(k, count), dim=1)
    whole = GROUP * width
    heads = products[:, :whole].unflatten(1, (width, GROUP)).amax(dim=2).topk(k, dim=1).indices
    columns = (heads[:, :, None] * GROUP + torch.arange(GROUP, device=products.device)).flatten(1)
    rest = torch.arange(whole, count, device=products.device).expand(len(products), -1)
    columns = torch.cat([columns, rest], dim=1)
    values, order = products.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, order)
