"""Pictures as chunks for streamed training: through the chain once, shuffled once, written by litdata."""

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.images.chunked import NEEDED
from sslood.data.sets.convert import Chain
from sslood.data.sets.images import Square, chain_text
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import read_user_images
from sslood.deploy.pictures import read_pictures
from sslood.ood.kit.network_detector import Progress

CHUNK = 16 << 20  # bytes: of 224 pixels a hundred images, so that a batch mixes many chunks
BATCH = 256


def pack_pictures(
    name: str,
    images: Path,
    to: Path,
    *,
    size: int,
    channels: int = 3,
    square: Square = "crop",
    validation: float = 0.02,
    epoch: int | None = None,
    seed: int = 0,
    unreadable: list[Path] | None = None,
    progress: Progress = lambda count: None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Write the training images of a folder or list as chunks in the new folder `to`; return its set file.

    That is (tensors, metadata): validation images, the labels of both splits, and `stream`. A share
    `validation` of the pictures is drawn by seed, one at least; the others are written in a drawn order.
    Memory holds one batch and the validation images. Pictures that cannot be read raise an InputError, or are
    added to `unreadable`. InputError too for a folder `to` that is there, and for a place without pictures.
    """
    if find_spec("litdata") is None:
        raise InputError(f"packing needs the package litdata; run `{NEEDED}`")
    if to.exists():
        raise InputError(f"{to}: is there already; name a new folder, or remove it")
    found = read_user_images(name, images, ROLES["id"])[0]
    if set(found) != {""}:
        raise InputError(f"{images}: is divided into {', '.join(found)}; name the folder of one split")
    pictures = found[""]
    count = len(pictures.labels)
    order = numpy_stream(seed, "pack", name).permutation(count)
    held = max(1, round(validation * count))
    if held >= count:
        raise InputError(f"{images}: {count} pictures cannot be cut into two splits; give more")
    paths, chain = [Path(path) for path in pictures.images], Chain(size, channels, square)
    places = {path: row for row, path in enumerate(paths)}
    kept: dict[str, list[np.ndarray]] = {"validation": [], "train": []}

    def split(rows: np.ndarray, name: str) -> Any:
        some: Sequence[Path] = [paths[row] for row in rows]
        for read, arrays in read_pictures(some, chain, batch_size=BATCH, unreadable=unreadable):
            labels = pictures.labels[[places[path] for path in read]]
            kept[name].append(labels)
            progress(len(read))
            yield arrays, labels

    images_of = [arrays for arrays, _ in split(order[:held], "validation")]
    total, square_sum = _write(split(order[held:], "train"), to, channels)
    tensors = {f"{part}.labels": np.concatenate(labels) for part, labels in kept.items() if labels}
    if "validation.labels" not in tensors or "train.labels" not in tensors:
        raise InputError(f"{images}: too few pictures can be read for two splits")
    tensors["validation.images"] = np.concatenate(images_of)
    written = len(tensors["train.labels"])
    pixels = written * size * size
    mean = [int(value) / pixels / 255 for value in total]
    std = [max(int(v) / pixels / 255**2 - m * m, 0.0) ** 0.5 for v, m in zip(square_sum, mean, strict=True)]
    metadata = {
        "name": name,
        "size": size,
        "channels": channels,
        "classes": list(pictures.classes),
        "splits": {"train": written, "validation": len(tensors["validation.labels"])},
        "resize": chain_text(size, channels, square),
        "mean": mean,
        "std": std,
        "stream": {"address": str(to), "images": written, "epoch": min(epoch or written, written)},
        **({"square": square} if square != "crop" else {}),
    }
    return tensors, metadata


def _write(batches: Any, to: Path, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Write batches as chunks; return the sums [C] of all pixels and of their squares, exactly.

    The folder gets its name last, so one that is there is whole.
    """
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    from litdata.streaming.cache import Cache

    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    cache, number = Cache(str(partial), chunk_bytes=CHUNK), 0
    total, squares = np.zeros(channels, np.uint64), np.zeros(channels, np.uint64)
    for arrays, labels in batches:
        counts = np.stack([np.bincount(arrays[:, c].ravel(), minlength=256) for c in range(channels)])
        total += (counts * np.arange(256)).sum(1).astype(np.uint64)
        squares += (counts * np.arange(256) ** 2).sum(1).astype(np.uint64)
        for image, label in zip(arrays, labels, strict=True):
            cache[number] = {"image": np.ascontiguousarray(image).tobytes(), "label": int(label)}
            number += 1
    cache.done()
    cache.merge()
    partial.rename(to)
    return total, squares
