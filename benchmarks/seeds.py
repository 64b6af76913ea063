"""What another seed of the same model, or another processor, does to the order of the detectors.

    python -m benchmarks.seeds     # seconds

From the results that are committed: the two seeds of the quickstart's models, and the three of the classifier
of the study cifar10-cpu. For each model, set and pair of seeds: where the best detector of one stands in the
other and how far behind, in points of AUROC, how many pairs of detectors change places, and Kendall's tau.
Then by how many points the rows of that classifier differ between processors that trained the same seeds in
float32, beside two seeds on one processor: median over pairs and detectors, and the most.
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

STUDY = Path("results/cifar10-cpu/classifier/results.csv")
OF_SEEDS = Path("metrics/results.csv"), STUDY
ELSEWHERE, MODEL = Path("results/cifar10-cpu-more/rates/results.csv"), "classifier_scratch"
Cells = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]


def main() -> None:
    """Print what two seeds say of the detectors of each model and set, and what two processors do."""
    for path in OF_SEEDS:
        rows = [
            [*key, *_two_seeds(found, *pair)]
            for key, found in cells_of(path).items()
            for pair in combinations(sorted(next(iter(found.values()))), 2)
        ]
        head = "model; set; seed; another; best of the one; its rank in the other; behind by; reversed; tau"
        show(str(path), head, rows)
    here, there = cells_of(STUDY), cells_of(ELSEWHERE)
    rows = [[name, *_apart(here[model, name], there[model, name])] for model, name in here if model == MODEL]
    show(f"{STUDY} and {ELSEWHERE}", "set; same seed, other processor; other seed, same processor", rows)


def cells_of(path: Path) -> Cells:
    """Return {(model, set): {detector: {seed: AUROC}}} of a table of results."""
    cells: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["detector"] in DETECTORS and row["role"] in ("near", "far"):
                values = cells.setdefault((row["model"], row["set"]), {}).setdefault(row["detector"], {})
                values[row["seed"]] = float(row["auroc"])
    return cells


def _apart(here: Mapping[str, Mapping[str, float]], there: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return how many points rows are apart: of one seed on two processors, of two seeds on the first."""
    both = [name for name in here if name in there]
    processors = [abs(here[name][seed] - there[name][seed]) for name in both for seed in here[name]]
    seeds = [abs(a - b) for name in both for a, b in combinations(here[name].values(), 2)]
    return [f"{100 * np.median(gaps):.2f}, at most {100 * max(gaps):.2f}" for gaps in (processors, seeds)]


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
