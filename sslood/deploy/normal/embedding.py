"""Pictures to what is kept of them: features and hashes. Pixels stay in memory for one batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sslood.auditing.hashes import perceptual_hashes
from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.sets.corruptions import corrupt
from sslood.data.sets.images import Remark
from sslood.deploy.pictures import chain_of, read_pictures
from sslood.deploy.scorer import network_batch
from sslood.nets.inference.extract import check_finite, extract
from sslood.nets.networks.model import Model
from sslood.ood.kit.network_detector import Progress

BLOCK = 64  # pictures read or distorted at a time


@dataclass(frozen=True)
class Embedded:
    """Pictures that could be read, by path: features float32 [N, D], hashes uint64 [N, 2], and those of their
    mirror images."""

    paths: list[Path]
    features: np.ndarray
    hashes: np.ndarray
    mirrored: np.ndarray

    def part(self, rows: np.ndarray) -> "Embedded":
        """Return some of the pictures."""
        paths = [self.paths[row] for row in rows]
        return Embedded(paths, self.features[rows], self.hashes[rows], self.mirrored[rows])


@dataclass
class Embedder:
    """A network with its preprocessing, and what is to be said of the pictures that it was shown.

    unreadable: None, and a picture that cannot be read is an error; or a list of those that were left out.
    """

    model: Model
    metadata: Mapping[str, Any]
    progress: Progress = lambda count: None
    unreadable: list[Path] | None = None
    remarks: list[tuple[Path, Remark]] = field(default_factory=list)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return float32 [N, D] of uint8 images [N, C, size, size]; InputError if one is not finite."""
        size = network_batch(images.shape[1:])
        preprocessing = {"mean": self.metadata["mean"], "std": self.metadata["std"]}
        arrays = extract(self.model, batches(images, size), **preprocessing)
        check_finite(arrays, model=self.metadata["name"], where="pictures")
        return arrays["features"]

    def _read(self, paths: Sequence[Path]) -> Iterator[tuple[list[Path], np.ndarray]]:
        reading: dict[str, Any] = {"unreadable": self.unreadable, "remarks": self.remarks}
        return read_pictures(paths, chain_of(self.metadata), batch_size=BLOCK, **reading)

    def embed(self, paths: Sequence[Path]) -> Embedded:
        """Return what is kept of pictures. Raises InputError as `read_pictures`, or if none can be read."""
        read: list[Path] = []
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for some, images in self._read(paths):
            both = perceptual_hashes(images), perceptual_hashes(images[..., ::-1])
            parts.append((self.features(images), *both))
            read += some
            self.progress(len(some))
        if not read:
            raise InputError(f"none of the {len(paths)} pictures can be read; look at {paths[0]}")
        features, hashes, mirrored = (np.concatenate(some) for some in zip(*parts, strict=True))
        return Embedded(read, features, hashes, mirrored)

    def embed_distorted(
        self, paths: Sequence[Path], labels: np.ndarray | None, side: str, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (features [M, D] of a distorted copy of each picture, the picture [M] of each).

        In equal shares the distortions of `sslood.data.sets.corruptions`, which also make the tuning set of
        that name. labels [N]: of pictures that are mixed, two are of different classes. side: the stream of
        the draws.
        """
        place = {path: row for row, path in enumerate(paths)}
        found, of, random = [], [], numpy_stream(seed, "normal", "distorted", side)
        for read, images in self._read(paths):
            rows = np.array([place[path] for path in read])
            own = np.arange(len(rows)) if labels is None else labels[rows]
            if len(set(own.tolist())) < 2:
                own = np.arange(len(rows))
            distorted, _, index = corrupt(images, own, len(images), random)
            found.append(self.features(distorted))
            of.append(rows[index])
            self.progress(len(read))
        return np.concatenate(found), np.concatenate(of)
