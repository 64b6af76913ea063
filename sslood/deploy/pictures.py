"""Pictures of a folder through a scorer, and the table of what it decides."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import atomic
from sslood.data.sets.images import SUFFIXES, read_image, to_array
from sslood.data.sets.tree import list_images
from sslood.deploy.scorer import BATCH, Decisions, Deployed
from sslood.ood.kit.network_detector import Progress

COLUMNS = ("path", "score", "p_value", "is_ood", "predicted_class")


def find_pictures(where: Path) -> tuple[Path, list[Path]]:
    """Return (folder, paths of the pictures in it, searched recursively, sorted); `where` may be one picture.

    Raises InputError if there is no such folder, or no picture in it.
    """
    if where.is_file():
        return where.parent, [where]
    if not where.is_dir():
        raise InputError(f"{where}: no such folder or picture")
    paths = [Path(path) for path in list_images(where)]
    if not paths:
        raise InputError(f"{where}: no image in it; known endings: {', '.join(SUFFIXES)}")
    return where, paths


def read_pictures(
    paths: Sequence[Path],
    size: int,
    channels: int,
    *,
    batch_size: int = BATCH,
    unreadable: list[Path] | None = None,
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yield (paths, uint8 [B, channels, size, size]), resized as all sets are, one batch in memory at a time.

    Raises InputError naming a file that cannot be read; if a list `unreadable` is given, the file is added to
    it and skipped instead.
    """

    def load(path: Path) -> np.ndarray | None:
        try:
            return to_array(read_image(path), size, channels)
        except InputError:
            if unreadable is None:
                raise
            return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            loaded = list(zip(batch, pool.map(load, batch), strict=True))
            arrays = {path: array for path, array in loaded if array is not None}
            if unreadable is not None:
                unreadable += [path for path, array in loaded if array is None]
            if arrays:
                yield list(arrays), np.stack(list(arrays.values()))


def decide_pictures(
    scorer: Deployed,
    paths: Sequence[Path],
    *,
    batch_size: int = BATCH,
    unreadable: list[Path] | None = None,
    progress: Progress = lambda count: None,
) -> tuple[list[Path], Decisions]:
    """Return (paths of the pictures that could be read, decisions about them).

    Of the pictures one batch is in memory at a time, of the decisions all. `progress` is called with the size
    of each batch. Raises InputError as `read_pictures`, or if none of the pictures can be read.
    """
    names: list[Path] = []
    batches: list[Decisions] = []
    size, channels = scorer.metadata["size"], scorer.metadata["channels"]
    for read, images in read_pictures(paths, size, channels, batch_size=batch_size, unreadable=unreadable):
        names += read
        batches.append(scorer.decide(images))
        progress(len(read))
    if not names:
        raise InputError(f"none of the {len(paths)} pictures can be read; look at {paths[0]}")
    return names, _join(batches)


def _join(batches: Sequence[Decisions]) -> Decisions:
    arrays = {
        key: np.concatenate([getattr(batch, key) for batch in batches])
        for key in ("scores", "p_values", "is_ood")
    }
    return replace(batches[0], **arrays, predicted=[name for batch in batches for name in batch.predicted])


def table_rows(names: Sequence[str], decisions: Decisions) -> Iterator[dict[str, Any]]:
    """Yield one mapping per picture with the keys COLUMNS; names: the values of `path`."""
    columns = (decisions.scores.tolist(), decisions.p_values.tolist(), decisions.is_ood.tolist())
    for row in zip(names, *columns, decisions.predicted, strict=True):
        yield dict(zip(COLUMNS, row, strict=True))


def save_table(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write `table_rows` as CSV, is_ood as true or false."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"is_ood": "true" if row["is_ood"] else "false"} for row in rows)
