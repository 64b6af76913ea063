"""Many pictures through the one chain, on all cores."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.data.sets.images import from_array, read_bytes, read_image, to_array
from sslood.data.sets.jpeg import decode_plain
from sslood.data.sets.pictures import Images
from sslood.data.sets.workers import processes

_BLOCK = 256  # pictures that a thread or process takes at a time
_MANY = 1000  # files from which processes pay
Block = tuple[np.ndarray, list[int]]  # converted pictures; positions of those that cannot be read


def convert(
    images: Images, size: int, channels: int, name: str, unreadable: list[int] | None = None
) -> np.ndarray:
    """Return uint8 [N, channels, size, size] of `images`: uint8 [N, H, W(, 3)] or paths of files.

    A file that cannot be decoded raises an InputError that names the first such file; if a list `unreadable`
    is given, its position is appended there instead and its row is left out. All cores work, the peak is
    the result plus a few pictures.
    """
    count = len(images)
    if isinstance(images, np.ndarray):
        if images.shape[1:] == (size, size, 3) and channels == 3:
            return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if images.shape[1:] == (size, size) and channels == 1:
            return np.ascontiguousarray(images[:, None])
    work = partial(_block, size=size, channels=channels, skip=unreadable is not None)
    parts = [images[start : start + _BLOCK] for start in range(0, count, _BLOCK)]
    # small files keep Python busy, which threads share; arrays are Pillow's work alone
    files = not isinstance(images, np.ndarray)
    out = np.empty((count, channels, size, size), np.uint8)
    filled = 0
    with (
        (processes if files and count >= _MANY else _threads)(work, parts) as blocks,
        tqdm(total=count, desc=f"{name}: converting", unit="image", disable=None, delay=0.5) as bar,
    ):
        for number, (block, bad) in enumerate(blocks):
            out[filled : filled + len(block)] = block
            filled += len(block)
            if unreadable is not None:
                unreadable += [number * _BLOCK + row for row in bad]
            bar.update(len(parts[number]))
    return out[:filled]


@contextmanager
def _threads(work: partial[Block], parts: Sequence[Images]) -> Iterator[Iterator[Block]]:
    """Yield the results of `work`, in the order of `parts`, done by a thread for each core."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool.map(work, parts)
    finally:
        pool.shutdown(cancel_futures=True)


def _block(images: Images, size: int, channels: int, skip: bool) -> Block:
    """Return (uint8 [n, channels, size, size], rows of `images` that cannot be read, if `skip`)."""
    out = np.empty((len(images), channels, size, size), np.uint8)
    kept, bad = 0, []
    for row, image in enumerate(images):
        try:
            out[kept] = _converted(image, size, channels)
            kept += 1
        except InputError:
            if not skip:
                raise
            bad.append(row)
    return out[:kept], bad


def _converted(image: np.ndarray | str | Path, size: int, channels: int) -> np.ndarray:
    """Return uint8 [channels, size, size] of pixels, or of the picture in a file."""
    if isinstance(image, np.ndarray):
        return to_array(from_array(np.ascontiguousarray(image)), size, channels)
    try:
        content = read_bytes(image)
    except OSError as error:
        raise InputError(f"{image}: cannot be read ({error}); repair or remove it") from None
    pixels = decode_plain(content)
    return to_array(read_image(image, content) if pixels is None else from_array(pixels), size, channels)
