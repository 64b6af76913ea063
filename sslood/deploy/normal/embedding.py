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
from sslood.deploy.normal.kept import Block, Kept
from sslood.deploy.pictures import chain_of, read_pictures
from sslood.deploy.scorer import network_batch
from sslood.nets.inference.extract import check_finite, extract
from sslood.nets.networks.model import Model
from sslood.ood.kit.network_detector import Progress

BLOCK = 64  # pictures read or distorted at a time
KEYS = ("features", "hashes", "mirrored")


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
    kept: what an earlier run has embedded is taken from it, and what is embedded goes into it.
    """

    model: Model
    metadata: Mapping[str, Any]
    progress: Progress = lambda count: None
    unreadable: list[Path] | None = None
    remarks: list[tuple[Path, Remark]] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return float32 [N, D] of uint8 images [N, C, size, size]; InputError if one is not finite."""
        size = network_batch(images.shape[1:])
        preprocessing = {"mean": self.metadata["mean"], "std": self.metadata["std"]}
        arrays = extract(self.model, batches(images, size), **preprocessing)
        check_finite(arrays, model=self.metadata["name"], where="pictures")
        return arrays["features"]

    def _read(self, paths: Sequence[Path], again: bool = False) -> Iterator[tuple[list[Path], np.ndarray]]:
        """Yield as `read_pictures`; again: pictures of which all has been said."""
        remarks = None if again else self.remarks
        reading: dict[str, Any] = {"unreadable": self.unreadable, "remarks": remarks}
        return read_pictures(paths, chain_of(self.metadata), batch_size=BLOCK, **reading)

    def embed(self, paths: Sequence[Path]) -> Embedded:
        """Return what is kept of pictures. Raises InputError as `read_pictures`, or if none can be read."""
        blocks = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
        read: list[Path] = []
        parts: list[Mapping[str, np.ndarray]] = []
        waiting: list[Sequence[Path]] = []  # those of a row that are not kept are read ahead of the network
        for block in [*blocks, []]:
            kept = self._known(block) if block else None
            if block and kept is None:
                waiting.append(block)
                continue
            for some, arrays in self._embed(waiting) if waiting else ():
                read += some
                parts.append(arrays)
            waiting = []
            if kept is not None:
                read += [path for path in dict.fromkeys(block) if path not in {*kept.unreadable}]
                parts.append(kept.arrays)
        if not read:
            raise InputError(f"none of the {len(paths)} pictures can be read; look at {paths[0]}")
        features, hashes, mirrored = (np.concatenate([one[key] for one in parts]) for key in KEYS)
        return Embedded(read, features, hashes.view(np.uint64), mirrored.view(np.uint64))

    def _embed(
        self, blocks: Sequence[Sequence[Path]]
    ) -> Iterator[tuple[list[Path], Mapping[str, np.ndarray]]]:
        """Yield (paths that could be read, their arrays) of each block with any, and keep them."""
        place = {path: number for number, block in enumerate(blocks) for path in block}
        said = len(self.remarks)
        for read, images in self._read([path for block in blocks for path in block]):
            both = perceptual_hashes(images), perceptual_hashes(images[..., ::-1])
            values = (self.features(images), *(hashes.view(np.int64) for hashes in both))
            arrays = dict(zip(KEYS, values, strict=True))
            block = blocks[place[read[0]]]
            self._keep(arrays, block, [path for path in block if path not in {*read}], said)
            said = len(self.remarks)
            yield read, arrays
            self.progress(len(read))

    def _known(self, paths: Sequence[Path], *about: Any) -> Block | None:
        """Return what is kept of pictures, with what is to be said of them; None to read them."""
        block = self.kept.load(paths, *about)
        if block is None or (block.unreadable and self.unreadable is None):
            return None
        if self.unreadable is not None:
            self.unreadable += block.unreadable
        self.remarks += block.remarks
        self.progress(len(paths) - len(block.unreadable))
        return block

    def _keep(
        self,
        arrays: Mapping[str, np.ndarray],
        paths: Sequence[Path],
        unread: list[Path],
        said: int,
        *about: Any,
    ) -> None:
        """Keep arrays of pictures, with the remarks from number `said` on that concern them."""
        own = {*paths}
        remarks = [one for one in self.remarks[said:] if one[0] in own]
        self.kept.save(Block(arrays, unread, remarks), paths, *about)

    def embed_distorted(
        self, paths: Sequence[Path], labels: np.ndarray | None, side: str, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (features [M, D] of a distorted copy of each picture, the picture [M] of each).

        In equal shares the distortions of `sslood.data.sets.corruptions`, which also make the tuning set of
        that name. labels [N]: of pictures that are mixed, two are of different classes. side: the stream of
        the draws.
        """
        about = ("distorted", side, seed, None if labels is None else labels.tolist())
        if (kept := self._known(paths, *about)) is not None:
            return kept.arrays["features"], kept.arrays["of"]
        place = {path: row for row, path in enumerate(paths)}
        found, of, random = [], [], numpy_stream(seed, "normal", "distorted", side)
        for read, images in self._read(paths, again=True):
            rows = np.array([place[path] for path in read])
            own = np.arange(len(rows)) if labels is None else labels[rows]
            if len(set(own.tolist())) < 2:
                own = np.arange(len(rows))
            distorted, _, index = corrupt(images, own, len(images), random)
            found.append(self.features(distorted))
            of.append(rows[index])
            self.progress(len(read))
        arrays = {"features": np.concatenate(found), "of": np.concatenate(of)}
        self._keep(arrays, paths, [], len(self.remarks), *about)
        return arrays["features"], arrays["of"]
