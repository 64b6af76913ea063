"""What can be said of a picture beside its score: where it is unlike ID, and which ID pictures it is like.

from sslood.deploy.maps.explaining import heat_maps

heat = heat_maps(scorer, images)  # uint8 [N, C, size, size] -> float64 [N, h, w]
"""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.core.names import path_cell, shown
from sslood.data.sets.convert import Chain
from sslood.data.sets.images import read_image
from sslood.deploy.maps.drawing import layer, overlaid, seen
from sslood.deploy.maps.nearest import Neighbour
from sslood.deploy.maps.reading import BATCH, Reader
from sslood.deploy.pictures import chain_of, read_pictures
from sslood.deploy.scorer import Deployed
from sslood.nets.inference.extract import extract
from sslood.ood.kit.network_detector import Progress
from sslood.report.gallery import Extra, HeatLayer, NearestPicture
from sslood.report.pictures import Thumbnail, png, thumbnail

INDEX = "maps.csv"  # beside the maps: which picture each is of
COLUMNS = ("map", "path", "hottest", "x", "y")
_MAP = re.compile(r"\d{5,}-.*\.png", re.DOTALL)
_NAME = re.compile(r"[^\w.-]+")
_LONGEST = 100  # characters of a picture's name in that of its map
NEAREST_SIDE = 48  # pixels of an ID picture on the page
Row = Mapping[str, Any]


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


def check_folder(folder: Path) -> None:
    """Raise InputError if maps cannot be written to a folder, which need not exist."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"--maps {str(folder)!r} is there and no folder; choose another")
    above = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    if not os.access(above, os.W_OK):
        raise InputError(f"--maps {str(folder)!r} cannot be written; choose another place")


def save_maps(folder: Path, rows: Sequence[Row], explained: Mapping[Path, Explained], chain: Chain) -> int:
    """Write the picture of each row with its heat as a PNG to `folder`; return how many.

    rows: of the table, from the most to the least OOD. A name is the rank and the name of the picture; the
    file INDEX says the path of each, its hottest value and the middle of that patch in pixels of the picture.
    Maps of an earlier run are removed. A map is whole or not there, whatever ends the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _MAP.fullmatch(old.name) and (folder / INDEX).is_file():
            old.unlink()
    named = [(row, f"{rank:05}-{_plain(row['path'])}.png") for rank, row in enumerate(rows, 1)]
    _save_index(folder, [(name, path_cell(row["path"]), "", "", "") for row, name in named])
    lines = []
    for row, name in named:
        heat = explained[row["file"]].heat
        if heat is None:
            raise InputError("this detector keeps no patches for --maps; write its file again with --maps")
        picture = read_image(row["file"], levels=chain.levels)
        with atomic(folder / name) as temporary:
            overlaid(picture, heat, chain).save(temporary, "png")
        x, y = _hottest(heat, *picture.size, chain)
        lines.append((name, path_cell(row["path"]), f"{heat.max():.4g}", f"{x:.0f}", f"{y:.0f}"))
    _save_index(folder, lines)
    return len(lines)


def _save_index(folder: Path, lines: Sequence[Sequence[str]]) -> None:
    with atomic(folder / INDEX) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])


def _plain(path: str) -> str:
    """Return the name of a picture without folders and without characters that a file name may not have."""
    return _NAME.sub("_", shown(path.rpartition("/")[2]))[-_LONGEST:]


def _hottest(heat: np.ndarray, width: int, height: int, chain: Chain) -> tuple[float, float]:
    """Return x and y in pixels of the picture of the middle of the hottest patch, within the picture."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    box = seen(width, height, chain)
    x = box.left + (column + 0.5) / heat.shape[1] * (box.right - box.left)
    y = box.top + (row + 0.5) / heat.shape[0] * (box.bottom - box.top)
    return float(np.clip(x, 0, width - 1)), float(np.clip(y, 0, height - 1))


Opener = Callable[[str], tuple[Image.Image, Path | None] | None]


@dataclass
class Extras:
    """What the page `page` shows of pictures beside their scores; known: finds an ID picture by its name."""

    explained: Mapping[Path, Explained]
    chain: Chain
    page: Path
    known: Opener = lambda name: None
    _kept: dict[str, tuple[Thumbnail | None, str]] = field(default_factory=dict)

    def __call__(self, row: Row, picture: Image.Image) -> Extra:
        """Return what to show with the picture of a row."""
        said = self.explained.get(row["file"], Explained())
        heat = None
        if said.heat is not None:
            box = seen(*picture.size, self.chain).scaled(1 / max(picture.size))
            sides = box.left, box.top, box.right - box.left, box.bottom - box.top
            heat = HeatLayer(png(layer(said.heat)), *sides, float(said.heat.max()))
        near = [NearestPicture(shown(one.name), one.likeness, *self._shown(one.name)) for one in said.nearest]
        return Extra(heat, near)

    def _shown(self, name: str) -> tuple[Thumbnail | None, str]:
        if name not in self._kept:
            found = self.known(name)
            link = ""
            if found is not None and found[1] is not None:
                start = self.page.absolute().parent
                link = quote(os.path.relpath(found[1], start), errors="surrogateescape")
            self._kept[name] = (None if found is None else thumbnail(found[0], NEAREST_SIDE)), link
        return self._kept[name]
