"""Exact nearest neighbours by products and partial sorting, in bounded memory."""

import numpy as np
import torch

from stages.core.errors import InputError

QUERIES, BANK = 512, 65536  # one block of similarities: 128 MiB


@torch.inference_mode()
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
    rows = torch.from_numpy(bank).to(device)
    result = np.empty(len(queries))
    for start in range(0, len(queries), QUERIES):
        block = torch.from_numpy(queries[start : start + QUERIES])
        place = _nearest(rows, block.to(device), k)[:, k - 1].cpu().numpy()
        gap = block.numpy().astype(np.float64) - bank[place]
        result[start : start + len(place)] = np.sqrt(np.einsum("nd,nd->n", gap, gap))
    return result


@torch.inference_mode()
def mean_largest_product(bank: np.ndarray, queries: np.ndarray, k: int, device: str = "cpu") -> np.ndarray:
    """Return the mean of each query's k largest products with rows of the bank: float64 [Q].

    bank float32 [N, D], queries float32 [Q, D]. The rows are found in float32, their products are summed
    in float64. Raises InputError if k exceeds N.
    """
    if k > len(bank):
        raise InputError(f"k is {k}, but there are only {len(bank)} ID train images; lower it")
    rows = torch.from_numpy(bank).to(device)
    result = np.empty(len(queries))
    for start in range(0, len(queries), QUERIES):
        block = torch.from_numpy(queries[start : start + QUERIES])
        places = _nearest(rows, block.to(device), k).cpu().numpy()
        total = np.zeros(block.shape, np.float64)
        for column in places.T:
            total += bank[column]
        result[start : start + len(places)] = np.einsum("nd,nd->n", total, block.numpy()) / k
    return result


def _nearest(bank: torch.Tensor, queries: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k rows of the bank of largest product with each query, largest first: int64 [Q, k]."""
    best = places = None
    for start in range(0, len(bank), BANK):
        products = queries @ bank[start : start + BANK].T
        values, index = products.topk(min(k, products.shape[1]), dim=1)
        index = index + start
        if best is not None:
            values, index = torch.cat([best, values], dim=1), torch.cat([places, index], dim=1)
            values, order = values.topk(min(k, values.shape[1]), dim=1)
            index = index.gather(1, order)
        best, places = values, index
    return places
