"""What another seed of the same model does to the order of the detectors.

    python -m benchmarks.seeds     # seconds

From the results that are committed: the two seeds of the quickstart's models, and the three of the classifier
of the study cifar10-cpu. For each model, set and pair of seeds: where the best detector of one stands in the
other and how far behind, in points of AUROC, how many pairs of detectors change places, and Kendall's tau.
"""

import csv
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.findings import rank, reversed_pairs, show
from tests.kit.registries import DETECTORS

OF_SEEDS = Path("metrics/results.csv"), Path("results/cifar10-cpu/classifier/results.csv")


def main() -> None:
    """Print, for each model and set, what two of its seeds say of the detectors."""
    for path in OF_SEEDS:
        cells: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["detector"] in DETECTORS and row["role"] in ("near", "far"):
                    values = cells.setdefault((row["model"], row["set"]), {}).setdefault(row["detector"], {})
                    values[row["seed"]] = float(row["auroc"])
        rows = [
            [*key, *_two_seeds(found, *pair)]
            for key, found in cells.items()
            for pair in combinations(sorted(next(iter(found.values()))), 2)
        ]
        head = "model; set; seed; another; best of the one; its rank in the other; behind by; reversed; tau"
        show(str(path), head, rows)


def _two_seeds(found: Mapping[str, Mapping[str, float]], one: str, other: str) -> list[Any]:
    """Return what changes between two seeds; found: {detector: {seed: AUROC}}."""
    first, second = ([values[seed] for values in found.values()] for seed in (one, other))
    best, pairs = int(np.argmax(first)), len(found) * (len(found) - 1) // 2
    turned = f"{len(reversed_pairs(first, second))} of {pairs}"
    numbers = [f"{100 * (max(second) - second[best]):.2f}", turned]
    place = f"{rank(second, best)} of {len(found)}"
    return [one, other, [*found][best], place, *numbers, f"{kendalltau(first, second).statistic:.2f}"]


if __name__ == "__main__":
    main()
