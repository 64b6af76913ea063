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
        place = _kth_neighbour(rows, block.to(device), k).cpu().numpy()
        gap = block.numpy().astype(np.float64) - bank[place]
        result[start : start + len(place)] = np.sqrt(np.einsum("nd,nd->n", gap, gap))
    return result


def _kth_neighbour(bank: torch.Tensor, queries: torch.Tensor, k: int) -> torch.Tensor:
    """Return the row of the bank that is k-th by product with each query: int64 [Q]."""
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
    return places[:, k - 1]
