"""What can be said of a picture beside its score: where it is unlike ID, and which ID pictures it is like.

from sslood.deploy.maps.explaining import heat_maps

heat = heat_maps(scorer, images)  # uint8 [N, C, size, size] -> float64 [N, h, w]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.deploy.maps.nearest import Neighbour
from sslood.deploy.maps.reading import BATCH, Reader
from sslood.deploy.pictures import chain_of, read_pictures
from sslood.deploy.scorer import Deployed
from sslood.nets.inference.extract import extract
from sslood.ood.kit.network_detector import Progress


@dataclass(frozen=True)
class Explained:
    """Of one picture: heat float64 [h, w] if the detector keeps patches (`Patches.heat`); ID neighbours."""

    heat: np.ndarray | None = None
    nearest: Sequence[Neighbour] = ()


def heat_maps(scorer: Deployed, images: np.ndarray) -> np.ndarray:
    """Return how unlike ID each patch of uint8 images [N, C, size, size] is: float64 [N, h, w].

    Larger = more OOD; 0 is the median of held-out ID, 1 what one patch in a thousand of it reaches. Raises
    InputError if the scorer's file keeps no patches.
    """
    reader = Reader(scorer.network, scorer.metadata)
    if scorer.patches is None:
        raise InputError("this detector keeps no patches; write its file again with --maps")
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([scorer.patches.heat(reader(part)[1]) for part in parts])


def explain(
    scorer: Deployed, paths: Sequence[Path], progress: Progress = lambda count: None
) -> dict[Path, Explained]:
    """Return what the file of a scorer can say of pictures, by path; {} if it keeps neither part.

    Memory for one batch and the heat. Raises InputError naming a picture that cannot be read any more.
    """
    if scorer.patches is None and scorer.nearest is None:
        return {}
    read = _reading(scorer)
    found: dict[Path, Explained] = {}
    for some, images in read_pictures([*dict.fromkeys(paths)], chain_of(scorer.metadata), batch_size=BATCH):
        features, vectors = read(images)
        heat: Sequence[Any] = [None] * len(some)
        if scorer.patches is not None and vectors is not None:
            heat = [*scorer.patches.heat(vectors)]
        nearest: Sequence[Any] = [()] * len(some)
        if scorer.nearest is not None:
            nearest = scorer.nearest.find(features)
        found |= dict(zip(some, map(Explained, heat, nearest), strict=True))
        progress(len(some))
    return found


def _reading(scorer: Deployed) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]:
    """Return what gives features and, if they are needed, patches of a batch."""
    if scorer.patches is not None:
        return Reader(scorer.network, scorer.metadata)
    how = {"mean": scorer.metadata["mean"], "std": scorer.metadata["std"]}
    return lambda images: (extract(scorer.network, batches(images, BATCH), **how)["features"], None)
