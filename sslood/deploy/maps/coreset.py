"""A few rows that lie close to all others: greedy k-centre.

Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985,
doi:10.1016/0304-3975(85)90224-5; chosen among projections, as PatchCore does (Roth et al., 2022,
arXiv:2106.08265, section 3.2). The projection is by signs (Achlioptas 2003,
doi:10.1016/S0022-0000(03)00025-4), which are the same on every machine.
"""

import numpy as np

from sslood.core.seeding import numpy_stream

WIDTH = 128  # dimensions in which distances are compared: to about a tenth of their size
SAME = 1e-9  # of the largest square: below it, a distance is the rounding of a difference of squares


def k_centre(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the places int64 [at most `count`] of rows [N, D] in the order of choice.

    The first is drawn by `seed`; each other one is the row farthest from those before it. Up to the
    projection, no row is then farther from a chosen one than twice what the best choice allows. Fewer are
    returned if the chosen ones equal all others. Distances in float64; memory N * 128 * 8 bytes.
    """
    rng = numpy_stream(seed, "coreset")
    first = int(rng.integers(len(rows)))
    wide = rows.astype(np.float64)
    if rows.shape[1] > WIDTH:
        wide = wide @ (rng.integers(0, 2, (rows.shape[1], WIDTH)) * 2.0 - 1.0) / WIDTH**0.5
    squares = np.einsum("nd,nd->n", wide, wide)
    nearest = np.full(len(wide), np.inf)
    least = SAME * squares.max()
    chosen = [first]
    while True:
        last = chosen[-1]
        np.minimum(nearest, squares + squares[last] - 2 * (wide @ wide[last]), out=nearest)
        nearest[last] = 0.0
        farthest = int(nearest.argmax())
        if len(chosen) == count or nearest[farthest] <= least:
            return np.array(chosen, np.int64)
        chosen.append(farthest)
