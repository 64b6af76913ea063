"""Which pictures are copies of one another: the same content, re-compressed, resized, slightly cut or
mirrored."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sslood.auditing.hashes import neighbours
from sslood.core.rows import unit_rows

# bits of 128 in which two hashes may differ; beyond SURE the features must agree too. Of 499,500 pairs of
# different photographs (one a class of ImageNet) 7 are within 32 bits, of as many pairs of hands on white one
# is within 10; of photographs cut by 5 % on all sides half are within 11, all within 21.
SURE, LIKELY = 8, 24
ALIKE = 0.97  # cosine of features
MOST = 64  # copies of a picture that are looked at


def groups_of(hashes: np.ndarray, mirrored: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return int [N]: equal for pictures that are copies of one another, numbered from 0.

    hashes, mirrored: of pictures and of their mirror images, uint64 [N, 2] of `perceptual_hashes`; features
    [N, D] of one network. All pairs are compared: 10,000 pictures take a second, 100,000 two minutes.
    """
    pairs = np.concatenate([neighbours(some, hashes, LIKELY, MOST) for some in (hashes, mirrored)])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    joined = pairs[copied(hashes, mirrored, features, pairs)]
    graph = coo_array((np.ones(len(joined)), joined.T), shape=(len(hashes), len(hashes)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def copied(hashes: np.ndarray, mirrored: np.ndarray, features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return bool [P]: whether the pictures of each pair are copies."""
    one, other = pairs.T
    bits = np.minimum(*(np.bitwise_count(some[one] ^ hashes[other]).sum(1) for some in (hashes, mirrored)))
    cosine = np.empty(len(pairs))
    for start in range(0, len(pairs), 1024):
        part = slice(start, start + 1024)
        both = (unit_rows(features[rows[part]].astype(np.float64)) for rows in (one, other))
        cosine[part] = np.einsum("nd,nd->n", *both)
    return (bits <= SURE) | ((bits <= LIKELY) & (cosine >= ALIKE))
