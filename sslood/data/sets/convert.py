"""Many pictures through the one chain, on all cores."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from PIL import Image
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.data.sets.images import Images, read_bytes, read_image, to_array
from sslood.data.sets.jpeg import Room, decode_plain
from sslood.data.sets.stacks import to_arrays
from sslood.data.sets.workers import CAN_FORK, forked, shared

_BLOCK = 128  # pictures a thread or process takes at a time
_MANY = 1000  # files from which processes pay
_ALIKE = 4  # pictures of one shape from which resizing them together pays
_TOGETHER, _CACHE = 32, 1 << 20  # at most so many at once, and bytes of them: what stays in a core's cache
_SMALL = 1 << 18  # bytes of a picture up to which it is held back until others of its shape have come
Blocks = Iterator[tuple[int, list[int]]]


def convert(
    images: Images, size: int, channels: int, name: str, unreadable: list[int] | None = None
) -> np.ndarray:
    """Return uint8 [N, channels, size, size] of `images`: uint8 [N, H, W(, 3)] or paths of files.

    A file that cannot be decoded stops with an InputError that names the first such file; if a list
    `unreadable` is given, its position goes in there instead and its row is left out.
    All cores work, the peak is the result plus a few pictures.
    """
    count, shape = len(images), getattr(images, "shape", ())
    if shape[1:] == (size, size, 3) and channels == 3:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if shape[1:] == (size, size) and channels == 1:
        return np.ascontiguousarray(images[:, None])
    # small files keep Pillow's Python busy, which threads share; forking is safe, and costs nothing,
    # since a set is made before anything else starts a thread
    forks = CAN_FORK and not shape and count >= _MANY
    out = (shared if forks else _empty)((count, channels, size, size))

    def fill(block: int) -> list[int]:
        start = block * _BLOCK
        part = slice(start, start + _BLOCK)
        return [start + row for row in _fill(out[part], images[part], unreadable is not None)]

    with (
        (forked if forks else _threaded)(fill, -(-count // _BLOCK)) as blocks,
        tqdm(total=count, desc=f"{name}: converting", unit="image", disable=None, delay=0.5) as bar,
    ):
        bad = []
        for block, rows in blocks:
            bad += rows
            bar.update(min(_BLOCK, count - block * _BLOCK))
    if not bad:
        return out
    unreadable += sorted(bad)
    return np.delete(out, unreadable, axis=0)


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


@contextmanager
def _threaded(work: Callable[[int], list[int]], count: int) -> Iterator[Blocks]:
    """Yield what gives (job, work(job)) of jobs 0..count-1 in order, done by a thread for each core."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield zip(range(count), pool.map(work, range(count)), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _fill(out: np.ndarray, items: Images, skip: bool) -> list[int]:
    """Put some pictures into `out`, uint8 [n, channels, size, size]; return the rows that are unreadable."""
    channels, size = out.shape[1:3]
    if isinstance(items, np.ndarray):
        for start in range(0, len(items), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            out[part] = to_arrays(items[part], size, channels)
        return []
    bad, held = [], _Held(out)
    for row, path in enumerate(items):
        try:
            found = _decoded(path, held.room)
        except InputError:
            if not skip:
                raise
            bad.append(row)
            continue
        if isinstance(found, Image.Image):
            out[row] = to_array(found, size, channels)
        elif found.nbytes > _SMALL:
            out[row] = to_array(Image.fromarray(found), size, channels)
        else:
            held.add(row, (*found.shape, 1)[:3])
    held.settle()
    return bad


class _Held:
    """Small pictures that wait for others of their shape, decoded into one stack for each shape."""

    def __init__(self, out: np.ndarray) -> None:
        self.out = out
        self.stacks: dict[tuple[int, int, int], np.ndarray] = {}
        self.rows: dict[tuple[int, int, int], list[int]] = {}

    def room(self, *shape: int) -> np.ndarray | None:
        """Return memory for the next picture of shape [H, W, C]; None if it is too large to wait."""
        stack = self.stacks.get(shape)
        if stack is None:
            size = shape[0] * shape[1] * shape[2]
            if size > _SMALL:
                return None
            stack = np.empty((min(_TOGETHER, max(_ALIKE, _CACHE // size)), *shape), np.uint8)
            self.stacks[shape], self.rows[shape] = stack, []
        return stack[len(self.rows[shape])]

    def add(self, row: int, shape: tuple[int, int, int]) -> None:
        """Count in the picture that was decoded into `room`; a full stack goes to its rows of the result."""
        rows = self.rows[shape]
        rows.append(row)
        if len(rows) == len(self.stacks[shape]):
            self._settle(shape)

    def settle(self) -> None:
        """Put all that still wait into their rows."""
        for shape in self.stacks:
            self._settle(shape)

    def _settle(self, shape: tuple[int, int, int]) -> None:
        rows, self.rows[shape] = self.rows[shape], []
        stack = self.stacks[shape][: len(rows), :, :, 0] if shape[2] == 1 else self.stacks[shape][: len(rows)]
        channels, size = self.out.shape[1:3]
        if len(rows) < _ALIKE:
            for row, picture in zip(rows, stack, strict=True):
                self.out[row] = to_array(Image.fromarray(picture), size, channels)
            return
        first, behind = rows[0], rows[-1] + 1
        where = slice(first, behind) if behind - first == len(rows) else rows  # a slice is far quicker
        self.out[where] = to_arrays(stack, size, channels)


def _decoded(path: str | os.PathLike, room: Room) -> np.ndarray | Image.Image:
    """Return the pixels of a file: an array of a plain JPEG, an upright image of anything else."""
    try:
        content = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); repair or remove it") from None
    plain = decode_plain(content, room)
    return read_image(path, content) if plain is None else plain
