"""What detectors cost as images, dimensions and classes grow: seconds, memory, fitted laws and a figure.

    python -m benchmarks.scaling                     # up to 100,000 images; writes benchmarks/scaling.svg
    python -m benchmarks.scaling --images 1000000    # up to a million, with 4 GB of memory

Each detector has a process of its own: it fits to N made images of D dimensions in K classes and scores
10,000 others. Starting from N 25,000, D 128 and K 10, one of the three grows at a time. The law of a detector
is seconds = constant * N^a D^b K^c, by least squares of logarithms; seconds are CPU time, which other jobs
disturb less than the clock. With one thread (OMP_NUM_THREADS=1) it is the time of one core.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sslood.ood.kit.outputs import Head, Outputs
from tests.kit.registries import example

NAMES = ("energy", "mahalanobis", "gmm", "vim", "neco", "weiper", "relation", "cfood", "nnguide", "knn")
BASE, SCORED = {"n": 25_000, "d": 128, "k": 10}, 10_000
GROWN = {"n": (12_500, 50_000, 100_000, 250_000, 1_000_000), "d": (32, 64, 256, 512), "k": (2, 50, 100)}
AXES = {"n": "ID train images N", "d": "dimensions D", "k": "classes K"}
Row = dict[str, float]


def made(count: int, width: int, classes: int, seed: int) -> Outputs:
    """Return features after a ReLU with the spectrum of a network, and a classifier of them."""
    random = np.random.default_rng(seed)
    scale = np.sqrt(1.0 / np.arange(1, width + 1, dtype=np.float32))
    centres = np.random.default_rng(0).standard_normal((classes, width), dtype=np.float32) * scale
    labels = np.arange(count) % classes
    features = random.standard_normal((count, width), dtype=np.float32)
    features *= scale
    features += 2 * centres[labels]
    np.maximum(features, 0, out=features)
    head = Head(centres, np.zeros(classes, np.float32))
    logits = (features @ centres.T).astype(np.float32)
    return Outputs("made", features, logits=logits, labels=labels, classes=classes, head=head)


def measure(name: str, n: int, d: int, k: int) -> Row:
    """Return CPU seconds of fitting and of scoring, and the peak memory in MB beyond that of the data."""
    train, test = made(n, d, k, 1), made(SCORED, d, k, 2)
    before = peak(reset=True)
    begin = time.process_time()
    detector = example(name).fit(train, test)
    fitted = time.process_time()
    detector.score(test)
    scored = time.process_time()
    return {"fit": fitted - begin, "score": scored - fitted, "mb": peak() - before}


def peak(reset: bool = False) -> float:
    """Return the peak memory of this process in MB, after `reset` that from now on, where Linux can."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def sizes_up_to(images: int) -> list[dict[str, int]]:
    """Return the sizes to measure, that of the most images last: its peak memory is its own."""
    sizes = [BASE] + [BASE | {key: value} for key, grown in GROWN.items() for value in grown]
    return sorted((size for size in sizes if size["n"] <= max(images, BASE["n"])), key=lambda size: size["n"])


def rows(images: int) -> Iterator[tuple[str, list[tuple[dict[str, int], Row]]]]:
    """Yield (detector, [(size, what it costs)]), each detector in a process of its own."""
    for name in NAMES:
        command = [sys.executable, "-m", "benchmarks.scaling", "--one", name, "--images", str(images)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield name, list(zip(sizes_up_to(images), json.loads(done.stdout), strict=True))


def law(sizes: list[dict[str, int]], seconds: list[float]) -> np.ndarray:
    """Return [log constant, a, b, c] of seconds = constant * N^a D^b K^c."""
    logs = np.log([list(size.values()) for size in sizes])
    return np.linalg.lstsq(np.column_stack([np.ones(len(logs)), logs]), np.log(seconds), rcond=None)[0]


def draw(found: dict[str, list[tuple[dict[str, int], Row]]], path: str) -> None:
    """Write a figure: seconds of fitting and scoring against N, D and K, with the laws as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.2), sharey=True, layout="constrained")
    for number, (name, pairs) in enumerate(found.items()):
        fitted = law([size for size, _ in pairs], [row["fit"] + row["score"] for _, row in pairs])
        for axis, key in zip(axes, AXES, strict=True):
            alone = [pair for pair in pairs if {**pair[0], key: 0} == {**BASE, key: 0}]
            x, y = np.array(sorted((size[key], row["fit"] + row["score"]) for size, row in alone)).T
            axis.loglog(x, y, "o", color=f"C{number}", label=name)
            sizes = np.log([[{**BASE, key: value}[one] for one in BASE] for value in x])
            axis.loglog(x, np.exp(fitted[0] + sizes @ fitted[1:]), color=f"C{number}", linewidth=0.8)
    for axis, (key, title) in zip(axes, AXES.items(), strict=True):
        fixed = ", ".join(f"{one.upper()} {value:,}" for one, value in BASE.items() if one != key)
        axis.set(xlabel=f"{title} ({fixed})")
        ticks = sorted({size[key] for pairs in found.values() for size, _ in pairs})
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45, ha="right")
        axis.minorticks_off()
    axes[0].set_ylabel(f"CPU seconds, fit and score {SCORED:,}")
    axes[2].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000, help="of the largest bank, at least 25,000")
    parser.add_argument("--figure", default="benchmarks/scaling.svg")
    parser.add_argument("--one", metavar="NAME")
    given = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])
    if given.one:
        measure(given.one, 2000, 32, 2)  # what is loaded once counts for none
        print(json.dumps([measure(given.one, **size) for size in sizes_up_to(given.images)]))
        return
    found = dict(rows(given.images))
    print("| detector | N^a | D^b | K^c | N 25,000, D 128, K 10 | largest N | MB beyond the data |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, pairs in found.items():
        seconds = [row["fit"] + row["score"] for _, row in pairs]
        _, *powers = law([size for size, _ in pairs], seconds)
        base = [size for size, _ in pairs].index(BASE)
        cells = [f"{power:.2f}" for power in powers] + [f"{seconds[base]:.2f} s", f"{seconds[-1]:.2f} s"]
        cells.append(f"{pairs[-1][1]['mb']:.0f}")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    draw(found, given.figure)


if __name__ == "__main__":
    main()
