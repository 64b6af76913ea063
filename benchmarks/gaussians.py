"""The divergence to the k-th nearest of many Gaussians beside its definition in NumPy, on one core.

    python -m benchmarks.gaussians

Ours ranks the bank in blocks of matrix products, of divergences or of what they are at least, then ranks
those about the k-th anew by the definition in float64. The peer sums the definition over the whole bank for
one query after another, as array code without blocks does, and takes the k-th. Both return float64; their
largest relative difference is printed. CPU time of alternating rounds, medians.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sslood.ood.geometry.gaussians import DiagonalGaussians
from sslood.ood.geometry.nearest_gaussian import kth_divergence
from sslood.ood.stochastic.bhattacharyya_knn import BhattacharyyaKNN
from sslood.ood.stochastic.kl_knn import KLKNN

BANK, QUERIES, D, K, ROUNDS = 45_000, 256, 64, 50, 3
Drawn = tuple[np.ndarray, np.ndarray]  # mean and log-variance [N, D]


def drawn(n: int, rng: np.random.Generator) -> Drawn:
    """Return n Gaussians with standard normal means and variances about e^-2."""
    return rng.normal(size=(n, D)), rng.normal(-2, 0.5, size=(n, D))


def kl(query: Drawn, bank: Drawn) -> np.ndarray:
    """Return KL(each of the bank || query) [N]."""
    squares = (query[0] - bank[0]) ** 2 * np.exp(-query[1])
    ratio = bank[1] - query[1]
    return 0.5 * (squares + np.expm1(ratio) - ratio).sum(1)


def bhattacharyya(query: Drawn, bank: Drawn) -> np.ndarray:
    """Return the Bhattacharyya distance of a query to each of the bank [N]."""
    mean = (np.exp(query[1]) + np.exp(bank[1])) / 2
    squares = (query[0] - bank[0]) ** 2 / mean
    return (squares / 8 + np.log(mean) / 2 - (query[1] + bank[1]) / 4).sum(1)


def peer(of: Callable[[Drawn, Drawn], np.ndarray], queries: Drawn, bank: Drawn) -> np.ndarray:
    """Return the k-th smallest divergence of each query [Q]."""
    return np.array([np.partition(of(query, bank), K - 1)[K - 1] for query in zip(*queries, strict=True)])


def measured(ours: Callable[[], Tensor], peers: Callable[[], np.ndarray]) -> str:
    """Return times per query, their ratio and the largest relative difference of the results, as a line."""
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        start = time.process_time()
        mine = ours().numpy()
        middle = time.process_time()
        other = peers()
        times.append((middle - start, time.process_time() - middle))
    mine_ms, other_ms = (1e3 * statistics.median(side) / QUERIES for side in zip(*times, strict=True))
    ratios = sorted(theirs / own for own, theirs in times)
    spread = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    gap = np.abs(mine / other - 1).max()
    return f"ours {mine_ms:6.2f} ms, NumPy {other_ms:6.2f} ms, ratio {spread}, difference {gap:.0e}"


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    bank, queries = drawn(BANK, rng), drawn(QUERIES, rng)
    ours = [DiagonalGaussians(*map(torch.from_numpy, part)) for part in (bank, queries)]
    print(f"k-th nearest of {BANK} Gaussians of {D} dimensions, per query of {QUERIES}, medians of {ROUNDS}")
    for detector, of in ((KLKNN(), kl), (BhattacharyyaKNN(), bhattacharyya)):
        how = detector.pairs, detector.rows, detector.error, detector.bounds
        found = measured(partial(kth_divergence, *ours, K, *how), partial(peer, of, queries, bank))
        print(f"{type(detector).__name__:18} {found}", flush=True)


if __name__ == "__main__":
    main()
