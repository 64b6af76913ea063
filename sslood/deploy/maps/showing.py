"""The page of scored pictures and the folder of their heat maps."""

import csv
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.core.files import atomic, save_text
from sslood.core.names import path_cell, shown
from sslood.data.sets.convert import Chain
from sslood.data.sets.images import read_image
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.maps.drawing import layer, overlaid, seen
from sslood.deploy.maps.explaining import Explained, explain
from sslood.deploy.maps.nearest import opened
from sslood.deploy.pictures import chain_of
from sslood.deploy.scorer import Deployed, describe_rule
from sslood.report.gallery import Extra, HeatLayer, NearestPicture, gallery, shown_rows
from sslood.report.pictures import Thumbnail, png, thumbnail

INDEX = "maps.csv"  # beside the maps: which picture each is of
COLUMNS = ("map", "path", "hottest", "x", "y")
_MAP = re.compile(r"\d{5,}-.*\.png", re.DOTALL)
_NAME = re.compile(r"[^\w.-]+")
_LONGEST = 60  # characters of a picture's name in that of its map
NEAREST_SIDE = 48  # pixels of an ID picture on the page
Row = Mapping[str, Any]
Opener = Callable[[str], tuple[Image.Image, Path | None] | None]


@dataclass(frozen=True)
class Showing:
    """What is to be written beside the table of scores, of at most `count` pictures.

    page: a file for the gallery; maps: a folder for heat maps; known: the folder or the set file of the ID
    pictures, which the gallery then shows. None for what is not wanted.
    """

    page: str | None
    maps: Path | None
    known: Path | None
    count: int

    def check(self, scorer: Deployed) -> None:
        """Raise InputError for what this scorer or these places do not allow, before any work."""
        if self.maps is not None:
            if scorer.patches is None:
                raise InputError(
                    "--maps: this detector keeps no patches; write its file again with `fit --maps` or "
                    "`deploy --maps`"
                )
            _check_folder(self.maps)
        if self.known is not None:
            if scorer.nearest is None or not self.page:
                raise InputError(
                    "--id_images shows the nearest ID pictures on the page: it needs --html, and a detector "
                    "that keeps their names, by `fit` or `deploy --maps`"
                )
            opened(self.known)

    def write(self, scorer: Deployed, rows: Sequence[Row], title: str, fdr: float | None = None) -> list[str]:
        """Write page and maps of scored pictures, rows of the table; return in sentences what was written.

        Which pictures: see `shown_groups`. Raises InputError for one that cannot be read any more.
        """
        some = shown_rows(rows, self.count)
        with tqdm(total=len(some), desc="explain", unit="image", disable=None, delay=0.5) as bar:
            explained = explain(scorer, [row["file"] for row in some], bar.update)
        chain, lines = chain_of(scorer.metadata), []
        if self.maps is not None:
            count = save_maps(self.maps, some, explained, chain)
            lines.append(f"Maps of {count} of {len(rows)} pictures are in {self.maps}, listed in {INDEX}")
        if self.page:
            extras = Extras(explained, chain, Path(self.page), opened(self.known) if self.known else _nowhere)
            calibrated = scorer.calibrated
            said: dict[str, Any] = {"headline": in_a_phrase(calibrated.catches), "count": self.count}
            said |= {"warnings": calibrated.alarms(), "notes": calibrated.notes()}
            said |= {"levels": chain.levels, "extras": extras}
            save_text(self.page, gallery(rows, Path(), title, describe_rule(scorer, fdr), **said))
        return lines


def _nowhere(name: str) -> None:
    """Find no ID picture."""


def _check_folder(folder: Path) -> None:
    """Raise InputError if maps cannot be written to a folder, which need not exist."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"--maps {str(folder)!r} is there and no folder; choose another")
    above = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise InputError(
            f"--maps {str(folder)!r} cannot be written ({above}: {error.strerror}); choose another place"
        ) from None


def save_maps(folder: Path, rows: Sequence[Row], explained: Mapping[Path, Explained], chain: Chain) -> int:
    """Write the picture of each row with its heat as a PNG to `folder`; return how many.

    rows: of the table, from the most to the least OOD. A name is the rank and the name of the picture; the
    file INDEX says the path of each, its hottest value and the middle of that patch in pixels of the picture.
    Maps that the INDEX of an earlier run lists are removed. A map is whole or not there, whatever ends the
    run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = _listed(folder / INDEX)
    for old in folder.iterdir():
        if old.name in listed:
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


def _listed(index: Path) -> set[str]:
    """Return the names of the maps that the index of an earlier run lists, which is written before them."""
    if not index.is_file():
        return set()
    with open(index, newline="", encoding="utf-8", errors="replace") as file:
        try:
            header, *rows = csv.reader(file)
        except (csv.Error, ValueError):  # no index of ours
            return set()
    if tuple(header) != COLUMNS:
        return set()
    return {row[0] for row in rows if row and _MAP.fullmatch(row[0])}


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


@dataclass
class Extras:
    """What the page `page` shows of pictures beside their scores; known: finds an ID picture by its name."""

    explained: Mapping[Path, Explained]
    chain: Chain
    page: Path
    known: Opener = _nowhere
    _kept: dict[str, tuple[Thumbnail | None, str]] = field(default_factory=dict)

    def __call__(self, row: Row, picture: Image.Image) -> Extra:
        """Return what to show with the picture of a row."""
        said = self.explained.get(row["file"], Explained())
        heat = None
        if said.heat is not None:
            side = max(picture.size)  # of the square in whose middle the page shows the picture
            box = seen(*picture.size, self.chain)
            x, y = ((side - length) / 2 for length in picture.size)
            heat = HeatLayer(
                png(layer(said.heat)),
                (box.left + x) / side,
                (box.top + y) / side,
                (box.right - box.left) / side,
                (box.bottom - box.top) / side,
                float(said.heat.max()),
            )
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
