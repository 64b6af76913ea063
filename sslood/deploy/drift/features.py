"""Vectors to compare, of pictures through the network or from a file: at most MOST, drawn at random."""

from pathlib import Path

import numpy as np

from sslood.core.batches import batches
from sslood.core.seeding import numpy_stream
from sslood.deploy.drift.vectors import MOST
from sslood.deploy.pictures import chain_of, find_pictures, read_pictures
from sslood.deploy.scorer import BATCH, Deployed
from sslood.deploy.tables.reading import open_vectors
from sslood.deploy.tables.scored import known_columns
from sslood.nets.inference.extract import extract
from sslood.ood.kit.network_detector import Progress


def features_of_pictures(
    scorer: Deployed,
    where: Path,
    *,
    seed: int,
    skip_unreadable: bool = False,
    progress: Progress = lambda count: None,
) -> np.ndarray:
    """Return features float32 [at most MOST, D] of pictures of a folder or list; InputError as `score`."""
    paths = find_pictures(where).paths
    chosen = [paths[place] for place in _drawn(len(paths), seed, "pictures")]
    scale = {"mean": scorer.metadata["mean"], "std": scorer.metadata["std"]}
    unreadable: list[Path] | None = [] if skip_unreadable else None
    found = [np.zeros((0, scorer.metadata["feature_dim"]), np.float32)]
    for read, images in read_pictures(chosen, chain_of(scorer.metadata), unreadable=unreadable):
        found.append(extract(scorer.network, batches(images, BATCH), **scale)["features"])
        progress(len(read))
    return np.concatenate(found)


def features_of_table(scorer: Deployed, path: str, *, seed: int) -> np.ndarray:
    """Return vectors float32 [at most MOST, D] of a file; InputError for what a table can lack."""
    table = open_vectors(path, known=known_columns(scorer.metadata))
    wanted = np.zeros(len(table), bool)
    wanted[_drawn(len(table), seed, "vectors")] = True
    found, start = [], 0
    for batch in table.batches():
        found.append(batch.vectors[wanted[start : start + len(batch)]])
        start += len(batch)
    return np.concatenate(found)


def _drawn(count: int, seed: int, name: str) -> np.ndarray:
    if count <= MOST:
        return np.arange(count)
    return np.sort(numpy_stream(seed, "drift", name).choice(count, MOST, replace=False))
