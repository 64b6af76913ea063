"""What an unfinished `fit` keeps of the pictures it has embedded, so that the same command goes on.

Each block of pictures is a file, under a name made of all that decides its content: the network, the code,
the limit of pixels, and the path, size and time of every picture. So nothing of other pictures is ever taken,
and the result has the bytes of an uninterrupted run.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, remove_leftovers, save_tensors
from sslood.core.names import shown
from sslood.data.sets.bounds import pixel_limit
from sslood.data.sets.crops import split_box
from sslood.data.sets.images import Remark
from sslood.nets.training.checkpoint import fingerprint

KIND = "embedded"
WORTH = 64  # pictures, a whole block: fewer are embedded in a second or two


@dataclass(frozen=True)
class Block:
    """Arrays of some pictures, those that could not be read, and what is to be said, each by its path."""

    arrays: Mapping[str, np.ndarray]
    unreadable: Sequence[Path] = ()
    remarks: Sequence[tuple[Path, Remark]] = ()


@dataclass
class Kept:
    """A folder of blocks; None keeps nothing. found: how many pictures were taken from it so far; a distorted
    copy counts as one."""

    folder: Path | None = None
    mark: str = ""
    found: int = field(default=0, init=False)

    @classmethod
    def of(
        cls,
        folder: str | Path | None,
        arrays: Mapping[str, np.ndarray],
        metadata: Mapping[str, Any],
        device: str,
    ) -> "Kept":
        """Return the folder for blocks of a network with these weights and this preprocessing."""
        if folder is None:
            return cls()
        about = json.dumps(metadata, sort_keys=True)
        digest = hashlib.sha256(f"{_code()} {device} {pixel_limit()} {about}".encode())
        for name in sorted(arrays):
            digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
            digest.update(np.ascontiguousarray(arrays[name]).data)
        return cls(Path(folder), digest.hexdigest())

    def load(self, paths: Sequence[Path], *about: Any) -> Block | None:
        """Return the block of pictures, None if it is not there, or damaged. about: JSON values."""
        if self.folder is None or not (place := self._place(paths, about)).exists():
            return None
        try:
            arrays, content = load_tensors(place, kind=KIND)
        except InputError:
            return None
        arrays = {key: np.array(value) for key, value in arrays.items()}  # not a map of a file that will go
        remarks = [(paths[row], (kind, detail)) for row, kind, detail in content["remarks"]]
        self.found += len(paths)
        return Block(arrays, [paths[row] for row in content["unreadable"]], remarks)

    def save(self, block: Block, paths: Sequence[Path], *about: Any) -> None:
        """Write the block of pictures, all of it or nothing."""
        if self.folder is None:
            return
        row = {path: row for row, path in enumerate(paths)}
        metadata = {
            "unreadable": [row[path] for path in block.unreadable],
            "remarks": [[row[path], *remark] for path, remark in block.remarks],
        }
        save_tensors(self._place(paths, about), block.arrays, kind=KIND, metadata=metadata)

    def clear(self) -> None:
        """Remove the blocks, and the folder if nothing else is in it: the run is finished."""
        if self.folder is None:
            return
        _remove(self.folder, self.folder.glob("*.safetensors"))

    def _place(self, paths: Sequence[Path], about: Sequence[Any]) -> Path:
        digest = hashlib.sha256(f"{self.mark} {json.dumps(about)}".encode())
        for path in paths:
            of = os.path.abspath(path)
            try:
                said = os.stat(split_box(path)[0])
                of += f" {said.st_size} {said.st_mtime_ns}"
            except OSError:
                of += " missing"
            digest.update(of.encode(errors="surrogateescape") + b"\0")
        return (self.folder or Path()) / f"{digest.hexdigest()[:32]}.safetensors"


@contextmanager
def left_for_the_next(folder: Path) -> Iterator[None]:
    """Leave of the blocks in a folder, after an error, what the next run goes on from, and no empty folder.

    The same command would meet an InputError again. One that is corrected, by another option or without a
    picture, takes most blocks; of fewer pictures than WORTH, it would take none in most cases.
    """
    try:
        yield
    except BaseException as error:
        blocks = list(folder.glob("*.safetensors"))
        count = sum(map(_pictures, blocks))
        is_lost = isinstance(error, InputError) and count < WORTH
        _remove(folder, blocks if is_lost else ())
        if isinstance(error, InputError) and not is_lost:
            said = f"{count} pictures that were embedded are in {folder}; the next run with this --out takes"
            print(shown(f"The {said} those that it needs."), file=sys.stderr)
        raise


def _pictures(place: Path) -> int:
    """Return how many pictures a block holds; none if it is damaged, or of distorted copies."""
    try:
        arrays, _ = load_tensors(place, kind=KIND)
    except InputError:
        return 0
    return 0 if "of" in arrays else len(arrays["features"])


def _remove(folder: Path, blocks: Iterable[Path]) -> None:
    """Remove blocks, what a killed run was writing, and the folder if nothing else is in it."""
    for place in blocks:
        place.unlink(missing_ok=True)  # another run of the same command may have
    remove_leftovers(folder)
    with suppress(OSError):
        folder.rmdir()


@cache
def _code() -> str:
    return fingerprint({}, [], "sslood.deploy.normal.embedding")
