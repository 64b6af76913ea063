"""Cuts by seed: stratified shares and subsets. All functions return sorted positions."""

import numpy as np


def quotas(counts: np.ndarray, total: int) -> np.ndarray:
    """Share `total` over groups in proportion to `counts` (largest remainder), never above a count."""
    exact = counts * (total / max(1, counts.sum()))
    quota = np.floor(exact).astype(np.int64)
    rest = int(total - quota.sum())
    order = np.argsort(quota - exact, kind="stable")  # largest remainder first
    quota[order[:rest]] += 1
    return quota


def stratified_choice(labels: np.ndarray, total: int, rng: np.random.Generator, least: int = 0) -> np.ndarray:
    """Return `total` positions of `labels` [N], each class in proportion to its frequency.

    least: of each class that has as many, at the cost of the largest ones; more than `total` if it takes so.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quota = quotas(counts, min(total, len(labels)))
    floor = np.minimum(counts, least)
    if (quota < floor).any():
        quota = floor + quotas(counts - floor, max(0, min(total, len(labels)) - int(floor.sum())))
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def stratified_cut(
    labels: np.ndarray, share: float, rng: np.random.Generator, least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cut positions of `labels` [N] into (rest, part) with round(share * N) in part, class by class.

    At least `least`, and never the last one of a class.
    """
    part = stratified_choice(labels, max(least, round(share * len(labels))), rng)
    for label in set(labels[part].tolist()) - set(np.delete(labels, part).tolist()):
        part = part[part != rng.choice(part[labels[part] == label])]
    rest = np.setdiff1d(np.arange(len(labels)), part)
    return rest, part
