"""Mahalanobis and NECO fitted to a stream of features of 64 dimensions: peak memory for 10^4 to 10^6 images.

    python -m benchmarks.streaming

Each run is a process of its own that makes its batches of 4,096 images as it goes and keeps none. Held
at once, 10^6 images would take 256 MB in float32. Takes about a minute on two cores.
"""

import resource
import subprocess
import sys
import time

import numpy as np

from sslood.ood.kit.outputs import Outputs
from tests.kit.registries import example

BATCH, WIDTH, CLASSES = 4096, 64, 10


def fit(count: int) -> None:
    """Fit both detectors to `count` images, merge two shards of each, print seconds and peak MB."""
    random = np.random.default_rng(0)
    shards = [[example(name) for name in ("mahalanobis", "neco")] for _ in range(2)]
    begin = time.perf_counter()
    for number, start in enumerate(range(0, count, BATCH)):
        n = min(BATCH, count - start)
        features = random.standard_normal((n, WIDTH), np.float32)
        labels = np.arange(n) % CLASSES
        batch = Outputs("stream", features, logits=features[:, :CLASSES], labels=labels, classes=CLASSES)
        for detector in shards[number % 2]:
            detector.partial_fit(batch)
    for one, other in zip(*shards, strict=True):
        one.merge(other).finish()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(f"{count:9,} images: {time.perf_counter() - begin:6.1f} s, peak {peak:6.0f} MB")


def main() -> None:
    for count in (10_000, 100_000, 1_000_000):
        subprocess.run([sys.executable, "-m", "benchmarks.streaming", str(count)], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fit(int(sys.argv[1]))
    else:
        main()
