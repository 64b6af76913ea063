"""k-means that gives the same clusters on every run and machine."""

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from sslood.core.errors import LeftOut
from sslood.core.seeding import stream_seed

STARTS = 10  # k-means++ starts; the best is kept


def cluster(rows: np.ndarray, clusters: int, seed: int, where: str) -> np.ndarray:
    """Return the cluster of each row [N, D]: int64 [N] with every number below `clusters` in use.

    Computes in float64, where the rounding of a processor's products does not decide which centre is nearest.
    Raises LeftOut for fewer than one cluster or fewer rows than clusters.
    """
    if not 1 <= clusters <= len(rows):
        raise LeftOut(
            f"{where}: cannot make {clusters} clusters of {len(rows)} images; choose 1 to {len(rows)}"
        )
    if clusters == 1:
        return np.zeros(len(rows), np.int64)
    model = KMeans(clusters, n_init=STARTS, random_state=stream_seed(seed, "k-means") % 2**32)
    # threads add their partial sums in the order they finish; one thread has one order
    with threadpool_limits(1, user_api="openmp"):
        model.fit(rows.astype(np.float64))
    return np.unique(model.labels_, return_inverse=True)[1].astype(np.int64)
