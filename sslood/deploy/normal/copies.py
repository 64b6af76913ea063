"""Which pictures are copies of one another: the same, re-compressed, resized, a little cut, or mirrored.

Hashes propose, features of a frozen network decide. How alike these must be, and whether hashes suffice, is
told by the set itself: pictures of one layout have hashes alike, and so are all features of hands on white.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sslood.auditing.hashes import neighbours
from sslood.core.rows import unit_rows
from sslood.core.seeding import numpy_stream
from sslood.data.sets.crops import file_numbers

LIKELY = 24  # bits of 128 in which the hashes of copies may differ; photographs cut by 5 % do in 21 at most
SURE, RARE = 12, 1e-3  # bits that suffice where fewer than this share of all pairs are within LIKELY
ALIKE = 1 / 10  # copies are as far apart, by 1 - cosine of features, as a tenth of the median of all pairs
PAIRS, FEWER = 20_000, 2000  # random pairs that the share, and the median, are taken of
MOST = 64  # copies of a picture that are looked at


def groups_of(hashes: np.ndarray, mirrored: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return int [N]: equal for pictures that are copies of one another, numbered from 0.

    hashes, mirrored: of pictures and of their mirror images, uint64 [N, 2] of `perceptual_hashes`; features
    [N, D] of one network. All pairs of hashes are compared: 10,000 pictures take a second or two.
    """
    count = len(hashes)
    pairs = np.concatenate([neighbours(some, hashes, LIKELY, MOST) for some in (hashes, mirrored)])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    random = numpy_stream(0, "copies").integers(count, size=(PAIRS, 2))
    random = random[random[:, 0] != random[:, 1]]
    if len(random):
        kept = _distances(features, pairs) <= ALIKE * np.median(_distances(features, random[:FEWER]))
        if (_bits(hashes, mirrored, random) <= LIKELY).mean() < RARE:
            kept |= _bits(hashes, mirrored, pairs) <= SURE
        pairs = pairs[kept]
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _distances(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return 1 - cosine [P] of the features of pairs [P, 2], by differences, so that none is below 0."""
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), 1024):
        part = slice(start, start + 1024)
        one, other = (unit_rows(features[rows].astype(np.float64)) for rows in pairs[part].T)
        found[part] = ((one - other) ** 2).sum(1) / 2
    return found


def _bits(hashes: np.ndarray, mirrored: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return in how many bits the hashes of pairs [P, 2] differ, one of them perhaps mirrored: int [P]."""
    one, other = pairs.T
    found = [
        np.bitwise_count(some[one] ^ hashes[other]).sum(1, dtype=np.int64) for some in (hashes, mirrored)
    ]
    return np.minimum(*found)


def together(groups: np.ndarray, paths: Sequence[str | Path]) -> np.ndarray:
    """Return groups int [N] of which those that hold boxes of one file are joined: they may overlap."""
    files = np.array(file_numbers(paths), np.int64)
    if len(set(files.tolist())) == len(files):
        return groups
    pairs = (groups, files + groups.max() + 1)  # a graph of groups and of files
    size = int(pairs[1].max()) + 1
    graph = coo_array((np.ones(len(files)), pairs), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][groups], np.int64)
