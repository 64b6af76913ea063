"""Pictures of one split before conversion: arrays or paths of files, with labels and class names."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.bounds import TooMuch
from sslood.data.sets.crops import file_numbers
from sslood.data.sets.images import read_bytes

Images = np.ndarray | Sequence[str | Path]  # uint8 [N, H, W(, 3)], or paths of files


@dataclass(frozen=True)
class Pictures:
    """One split: images (uint8 [N, H, W(, 3)] or paths), labels int64 [N] (-1 unknown), class names."""

    images: Images
    labels: np.ndarray
    classes: tuple[str, ...]

    def take(self, rows: np.ndarray) -> "Pictures":
        """Return the pictures at positions `rows`, in that order."""
        if isinstance(self.images, np.ndarray):
            return Pictures(self.images[rows], self.labels[rows], self.classes)
        return Pictures([self.images[row] for row in rows], self.labels[rows], self.classes)

    def files(self) -> np.ndarray:
        """Return int [N], equal for the boxes of one file and numbered by first appearance."""
        if isinstance(self.images, np.ndarray) or not any("#xywh=" in str(path) for path in self.images):
            return np.arange(len(self.labels))
        return np.array(file_numbers(self.images))


Splits = dict[str, Pictures]  # split -> pictures; "" = the set comes without splits


def check_labels(path: Path, images: Images, labels: np.ndarray, classes: int) -> None:
    """Raise InputError unless there is one label in 0..classes-1 for each image; `path` holds the labels."""
    if len(images) != len(labels):
        raise InputError(f"{path}: {len(labels)} labels do not fit {len(images)} images; fetch it again")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise InputError(
            f"{path}: the label of image {outside[0]} does not fit the {classes} classes; fetch it again"
        )


def digest(paths: Sequence[str | Path], root: Path, *, whole: bool = False) -> str:
    """Return one sha256 over the names below `root` and the contents of `paths`, in order.

    A file that cannot be read, or is too large for a picture, counts as missing: whoever reads the picture
    decides what that means. whole: large files, which are no pictures, are read as well.
    """
    total, start = hashlib.sha256(), len(os.path.join(root, ""))
    for path in paths:
        name = os.fspath(path)
        try:
            content = hashlib.sha256(read_bytes(name)).hexdigest()
        except OSError as error:
            content = "missing"
            if whole and isinstance(error, TooMuch):
                with open(name, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name[start:].replace(os.sep, '/')}\0{content}\n".encode(errors="surrogateescape"))
    return total.hexdigest()
