"""Sources that a publisher offers: fetched, verified, read, counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.data.sets.fetching.fetch import Located, locate
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.formats import Reader
from sslood.data.sets.pictures import Pictures, Splits, digest
from sslood.data.sets.remake import random_crops, shrunk
from sslood.data.sets.roles.roles import Role
from sslood.data.sets.source import PictureSource, SetSettings


@dataclass(frozen=True, kw_only=True)
class PublishedSource(PictureSource):
    """An image set as its publisher offers it.

    reader: of its format, with its `options`. counts: images per split as published (all: no split is),
    per_class: of each class, or one number where all have as many. shrink, crop: side in pixels to which the
    pictures are shrunk by the one chain, or at random cut, before anything else; 0 = neither.
    """

    reader: Reader
    counts: Mapping[str, int]
    published: tuple[Published, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    per_class: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    shrink: int = 0
    crop: int = 0

    def read(self, name: str, role: Role, settings: SetSettings) -> tuple[Splits, dict[str, Any]]:
        """Fetch and read the published splits that a role uses, see `PictureSource.read`."""
        splits = self._wanted(role)
        files = [file for file in self.published if not file.split or file.split in splits]
        located = {file.name: locate(self.name, file) for file in files}
        paths = {file: where.path for file, where in located.items()}
        read = {split: self.reader(paths, split, self.options) for split in splits}
        if not any(where.checked == "unpacked copy" for where in located.values()):
            self._count(read)
        read = {split: self._remade(pictures) for split, pictures in read.items()}
        addresses = [file.sources[0] for file in files if file.sources]
        origin = {"addresses": addresses, "files": _provenance(located)}
        return {"" if split == "all" else split: pictures for split, pictures in read.items()}, origin

    def _wanted(self, role: Role) -> list[str]:
        """Return the published splits that a role uses; InputError if there are none."""
        wanted = [split for split in role.published if split in self.counts]
        if role.is_labelled:
            wanted = wanted if "train" in self.counts else []
            lacking = "has only a test split, so it cannot be the ID set; name another in `id`"
        else:
            wanted, lacking = wanted[:1], "is for training and has no test split; give it role auxiliary"
        if not wanted and "all" not in self.counts:
            raise InputError(f"set {self.name!r} {lacking}")
        return wanted or ["all"]

    def _count(self, read: Mapping[str, Pictures]) -> None:
        """Compare with the published numbers of images (an unpacked copy may hold a part of a set)."""
        for split, pictures in read.items():
            count = len(pictures.labels)
            if self.counts.get(split, count) != count:
                raise InputError(
                    f"set {self.name!r}: {count} {split} images found, "
                    f"published are {self.counts[split]}; fetch it again"
                )
            counts = np.bincount(pictures.labels[pictures.labels >= 0], minlength=len(pictures.classes))
            wrong = np.flatnonzero(counts != self.per_class.get(split, counts))
            if len(wrong):
                raise InputError(
                    f"set {self.name!r}: {counts[wrong[0]]} {split} images of class "
                    f"{pictures.classes[wrong[0]]!r} found, which is not the published number; fetch it again"
                )

    def _remade(self, pictures: Pictures) -> Pictures:
        if self.shrink:
            images = shrunk(pictures.images, self.shrink, self.name)
        elif self.crop:
            images = random_crops(pictures.images, self.crop, self.name)
        else:
            return pictures
        return Pictures(images, pictures.labels, pictures.classes)


def _provenance(located: Mapping[str, Located]) -> dict[str, dict[str, str]]:
    """Return the sha256 of every file, or one over names and contents of a folder of unpacked content."""
    files = {}
    for name, where in located.items():
        sha256 = where.sha256
        if not sha256:
            paths: list[Path] = sorted(path for path in where.path.rglob("*") if path.is_file())
            sha256 = digest(paths, where.path, whole=True)
        files[name] = {"sha256": sha256, "checked": where.checked}
    return files
