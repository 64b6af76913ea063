"""Whether vectors of a batch come from the distribution of reference vectors: two two-sample tests.

MMD^2 of Gretton et al., "A kernel two-sample test", JMLR 2012, with a Gaussian kernel as wide as the median
distance of all pairs, and a classifier two-sample test (`sslood.deploy.drift.classifier`). Both get p by
permuting which vectors are the batch's: valid for every number of vectors. They see what the detector's score
does not, e.g. a class that is missing.
"""

from dataclasses import dataclass

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.deploy.drift.classifier import told_apart

MOST = 1000  # vectors of a side; more are drawn from, since all pairs are compared
PERMUTATIONS = 499


@dataclass(frozen=True)
class Comparison:
    """What `compare_vectors` found. reference, batch: number of vectors that were compared.

    mmd2, p_value: of the kernel test. auroc, classifier_p: of the classifier, on vectors that it did not see;
    0.5 where it cannot tell them apart.
    """

    mmd2: float
    p_value: float
    auroc: float
    classifier_p: float
    reference: int
    batch: int


def compare_vectors(
    reference: np.ndarray, batch: np.ndarray, *, seed: int, permutations: int = PERMUTATIONS
) -> Comparison:
    """Compare vectors [n, D] of held-out ID images with those of a batch [m, D].

    p is the share of `permutations` and the batch itself with an MMD^2, or AUROC, at least as large. Of more
    than MOST vectors of a side, MOST are drawn from `seed`. Raises InputError for different widths, fewer
    than two vectors, or values that are not finite.
    """
    sides = {"reference": np.asarray(reference), "batch": np.asarray(batch)}
    for name, vectors in sides.items():
        _check(name, vectors)
    widths = [vectors.shape[1] for vectors in sides.values()]
    if widths[0] != widths[1]:
        raise InputError(
            f"the vectors of the reference are {widths[0]} wide, those of the batch {widths[1]}; take both "
            "from one model"
        )
    rows = [_drawn(vectors, numpy_stream(seed, "drift", name)) for name, vectors in sides.items()]
    both, count = np.concatenate(rows), len(rows[0])
    own = np.arange(len(both)) < count
    random = numpy_stream(seed, "drift", "permutations")
    choices = np.stack([own, *(random.permutation(own) for _ in range(permutations))])
    found = unbiased_mmd2(both, choices)
    squares = _squared_distances(_standardised(both))
    areas = told_apart(squares, median_distance(squares), choices)
    return Comparison(float(found[0]), _share(found), float(areas[0]), _share(areas), count, len(rows[1]))


def _share(found: np.ndarray) -> float:
    """Return the share of statistics that are as large as the first, itself among them.

    Equal up to rounding counts as equal: vectors may all be the same.
    """
    return float((found >= found[0] - 1e-12).mean())


def _standardised(rows: np.ndarray) -> np.ndarray:
    """Return rows [N, D], each dimension with a standard deviation of 1, or 0 where it is constant."""
    spread = rows.std(0)
    result: np.ndarray = (rows - rows.mean(0)) / np.where(spread > 0, spread, 1.0)
    return result


def _check(name: str, vectors: np.ndarray) -> None:
    if vectors.ndim != 2:
        raise InputError(f"the vectors of the {name} have shape {vectors.shape}, expected (count, width)")
    if len(vectors) < 2:
        raise InputError(f"the {name} has {len(vectors)} vector; at least 2 can be compared")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise InputError(f"vector {bad[0]} of the {name} is NaN or infinite; leave it out or make it again")


def _drawn(vectors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if len(vectors) > MOST:
        vectors = vectors[np.sort(random.choice(len(vectors), MOST, replace=False))]
    return vectors.astype(np.float64)


def _squared_distances(rows: np.ndarray) -> np.ndarray:
    """Return [N, N]; from the mean, so that the difference of large squares costs few digits."""
    centred = rows - rows.mean(0)
    lengths = (centred**2).sum(1)
    squares: np.ndarray = np.maximum(lengths[:, None] + lengths - 2 * (centred @ centred.T), 0.0)
    return squares


def median_distance(squares: np.ndarray) -> float:
    """Return the median distance of all pairs, from their squared distances [N, N]."""
    return float(np.median(np.sqrt(squares[np.triu_indices(len(squares), 1)])))


def unbiased_mmd2(rows: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Return MMD^2 float64 [C], without bias, of rows [N, D] parted in two by each choice: bool [C, N].

    The kernel is Gaussian, its width the median distance of all pairs. Each choice takes the same number.
    """
    squares = _squared_distances(rows)
    width = median_distance(squares)
    kernel = np.exp(-squares / (2 * width**2)) if width > 0 else np.ones_like(squares)
    np.fill_diagonal(kernel, 0.0)
    first = int(choices[0].sum())
    second = len(rows) - first
    weights = choices.T.astype(np.float64)
    products = kernel @ weights
    inside = (weights * products).sum(0)  # of the first part: pairs in both orders, without the diagonal
    across = products.sum(0) - inside
    other = kernel.sum() - inside - 2 * across
    return inside / (first * (first - 1)) + other / (second * (second - 1)) - 2 * across / (first * second)
