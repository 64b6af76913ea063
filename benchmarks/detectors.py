"""kNN and Mahalanobis beside pytorch-ood's, and the metrics beside scikit-learn's three curves, in one run.

    python -m benchmarks.detectors            # all cores
    python -m benchmarks.detectors 1          # one core

Detectors are fitted on 50,000 and score 20,000 rows of 512 features in 10 classes, float32, whose
variances fall as 1 / i, as those of networks do. Fitting is not counted. Metrics: a million ID and a million
OOD scores. Both sides have the same threads, and rounds alternate. Peaks are those of a process of its own
with the data, the interpreter and all libraries. Takes three minutes on two cores.
"""

import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from sslood.ood.kit.detector import Detector
from sslood.ood.kit.outputs import Outputs
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.posthoc.knn import KNN, KNNSettings
from sslood.ood.posthoc.mahalanobis import Mahalanobis, MahalanobisSettings

TRAIN, TEST, WIDTH, CLASSES, SCORES, ROUNDS = 50_000, 20_000, 512, 10, 1_000_000, 3
Call = Callable[[], object]


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (train [N, D], labels [N], test [M, D])."""
    random = np.random.default_rng(0)
    scale = np.sqrt(1.0 / np.arange(1, WIDTH + 1, dtype=np.float32))
    centres = random.standard_normal((CLASSES, WIDTH), dtype=np.float32) * scale
    made = []
    for count in (TRAIN, TEST):
        part = random.standard_normal((count, WIDTH), dtype=np.float32)
        part *= scale  # in place: what is made here counts for the peak
        for label in range(CLASSES):
            part[label::CLASSES] += centres[label]
        made.append(part)
    return made[0], np.arange(TRAIN) % CLASSES, made[1]


def ours(detector: Detector) -> Call:
    """Return a call that scores with a detector of this project."""
    train, labels, test = rows()
    detector.fit(Outputs("train", features=train, labels=labels, classes=CLASSES))
    outputs = Outputs("test", features=test)
    return lambda: detector.score(outputs)


def theirs(name: str, **settings) -> Call:
    """Return a call that scores with a detector of pytorch-ood."""
    from pytorch_ood import detector

    train, labels, test = rows()
    fitted = getattr(detector, name)(None, **settings)
    fitted.fit_features(torch.from_numpy(train), torch.from_numpy(labels))
    tensor = torch.from_numpy(test)
    return lambda: fitted.predict_features(tensor).numpy()


def scores() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=SCORES), random.normal(1, 1, SCORES)


def our_metrics() -> Call:
    inside, outside = scores()
    return lambda: ood_metrics(inside, outside)["auroc"]


def three_curves() -> Call:
    from sklearn.metrics import auc, precision_recall_curve, roc_curve

    together, is_ood = np.concatenate(scores()), np.repeat([0, 1], SCORES)

    def curves() -> float:
        precision_recall_curve(is_ood, together)
        precision_recall_curve(1 - is_ood, -together)
        return auc(*roc_curve(is_ood, together)[:2])

    return curves


# name -> (ours, the peer's, factor of the peer's scores)
PAIRS: dict[str, tuple[Callable[[], Call], Callable[[], Call], float]] = {
    "kNN, k 50": (lambda: ours(KNN(KNNSettings(k=50))), lambda: theirs("KNN", k=50), 1.0),
    # theirs is half the distance, with the scatter not divided by N
    "Mahalanobis": (
        lambda: ours(Mahalanobis(MahalanobisSettings(ridge=1e-6))),
        lambda: theirs("Mahalanobis"),
        2.0 * TRAIN,
    ),
    "ood_metrics": (our_metrics, three_curves, 1.0),
}


def seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def peak(name: str) -> float:
    """Return the peak memory in MB of this process after one call of ours."""
    PAIRS[name][0]()()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(rounds: int = ROUNDS) -> Iterator[dict[str, object]]:
    """Yield a row per pair: name, rounds, ours and peer in s, ratio, peak of ours in MB."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.map(peak, PAIRS, chunksize=1)
    for (name, (make, make_peer, factor)), memory in zip(PAIRS.items(), peaks, strict=True):
        mine, peer = make(), make_peer()
        np.testing.assert_allclose(mine(), factor * peer(), rtol=2e-3)  # the peers compute in float32
        times = [(seconds(mine), seconds(peer)) for _ in range(rounds)]
        first, second = (statistics.median(side) for side in zip(*times, strict=True))
        yield {"name": name, "rounds": rounds, "ours_s": first, "peer_s": second, "ratio": second / first,
               "peak_mb": memory}  # fmt: skip


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    print(f"{TRAIN} x {WIDTH} fitted, {TEST} scored, {threads} threads, median of {ROUNDS} rounds")
    with threadpool_limits(threads):
        for row in run():
            print(
                f"{row['name']:12} ours {row['ours_s']:7.3f} s  peer {row['peer_s']:7.3f} s  "
                f"ratio {row['ratio']:5.2f}  peak {row['peak_mb']:5.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
