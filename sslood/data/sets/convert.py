"""Many pictures through the one chain, on all cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.data.sets.bounds import TooMuch, check_file, pixel_limit
from sslood.data.sets.crops import split_box
from sslood.data.sets.depth import Levels, Undeclared, common_levels
from sslood.data.sets.images import Filter, Remark, Square, from_array, read_bytes, read_image, to_array
from sslood.data.sets.jpeg import decode_plain
from sslood.data.sets.notices import warnings_kept
from sslood.data.sets.pictures import Images
from sslood.data.sets.room import room
from sslood.data.sets.workers import processes

UNREADABLE = "cannot be read, so left out"
CUT = "more than a third is lost to the square crop; `square` pad or squash keeps it"
_BLOCK = 256  # pictures that a thread or process takes at a time
_MANY = 1000  # files from which processes pay


@dataclass(frozen=True)
class Chain:
    """What is done to every picture: to uint8 [channels, size, size].

    levels: what is black and white of more than 8 bits, where a file does not say it; None: with `ask`
    Undeclared is raised, otherwise the file's full range counts. filter, resize_to: see `images.resize`.
    """

    size: int
    channels: int
    square: Square = "crop"
    levels: Levels | None = None
    ask: bool = False
    filter: Filter = "bilinear"
    resize_to: int | None = None


@dataclass
class _Block:
    """Converted pictures, and by row: why it cannot be read, its extremes if it needs levels, remarks."""

    images: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    undeclared: dict[int, Levels] = field(default_factory=dict)
    remarks: dict[int, list[Remark]] = field(default_factory=dict)

    def said(self, places: Sequence[int]) -> list[tuple[int, Remark]]:
        """Return the remarks, each with the place of its picture; `places`: of the block's rows."""
        unreadable = [(places[row], (UNREADABLE, reason)) for row, reason in self.unreadable.items()]
        return unreadable + [(places[row], one) for row, some in self.remarks.items() for one in some]


def convert(
    images: Images,
    size: int,
    channels: int,
    name: str,
    unreadable: list[int] | None = None,
    *,
    square: Square = "crop",
    levels: Callable[[], Levels] | None = None,
    remarks: list[tuple[int, Remark]] | None = None,
) -> np.ndarray:
    """Return uint8 [N, channels, size, size] of `images`: uint8 [N, H, W(, 3)] or paths of files.

    A file that cannot be decoded raises an InputError that names the first such file; if a list `unreadable`
    is given, its position is appended there instead and its row is left out. levels: called if a picture of
    more than 8 bits does not say which range it uses; by default the range of these pictures. remarks: gets
    (position, what is to be said of the picture). All cores work, the peak is the result (see `room`) plus a
    few pictures.
    """
    pixel_limit()  # one that is no number stops the whole, whatever is skipped
    count = len(images)
    if isinstance(images, np.ndarray):
        if images.shape[1:] == (size, size, 3) and channels == 3:
            return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if images.shape[1:] == (size, size) and channels == 1:
            return np.ascontiguousarray(images[:, None])
    chain = Chain(size, channels, square, None, ask=True)
    skip = unreadable is not None
    out = room((count, channels, size, size))
    said: list[tuple[int, Remark]] = []
    undeclared: dict[int, tuple[int, Levels]] = {}  # position -> row of `out`, extremes
    filled = 0
    for rows, block in _blocks(images, chain, skip, name):
        kept = [row for row in range(len(rows)) if row not in block.unreadable]
        out[filled : filled + len(kept)] = block.images
        undeclared |= {rows[row]: (filled + kept.index(row), both) for row, both in block.undeclared.items()}
        filled += len(kept)
        said += block.said(rows)
        if unreadable is not None:
            unreadable += [rows[row] for row in block.unreadable]
    if undeclared:  # now that what they need is known
        found = common_levels(both for _, both in undeclared.values()) if levels is None else levels()
        again, waiting = replace(chain, levels=found), list(undeclared)
        for rows, block in _blocks([images[place] for place in waiting], again, False, name):
            places = waiting[rows.start : rows.stop]
            out[[undeclared[place][0] for place in places]] = block.images
            said += block.said(places)
    if remarks is not None:
        remarks += sorted(said)
    return out[:filled]


def notes_of(remarks: Sequence[tuple[str, Remark]], count: int) -> list[str]:
    """Return a sentence for each kind of remark about `count` pictures; remarks: (name of one, remark)."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, (kind, detail) in remarks:
        kinds.setdefault(kind, []).append((name, detail))
    return [
        f"{len(some)} of {count} pictures: {kind}; the first is {some[0][0]} ({some[0][1]})"
        for kind, some in kinds.items()
    ]


def survey(paths: Sequence[str | Path], name: str) -> Levels:
    """Return the levels that pictures of more than 8 bits need together, see `sslood.data.sets.depth`."""
    blocks = _blocks(paths, Chain(8, 1, "squash", None, ask=True), True, f"{name}, their range")
    return common_levels([both for _, block in blocks for both in block.undeclared.values()] or [(0, 65535)])


def _blocks(images: Images, chain: Chain, skip: bool, name: str) -> Iterator[tuple[range, _Block]]:
    """Yield (positions of some pictures, their block), in order, done on all cores."""
    work = partial(_block, chain=chain, skip=skip)
    places = [range(len(images))[start : start + _BLOCK] for start in range(0, len(images), _BLOCK)]
    parts = [images[place.start : place.stop] for place in places]
    # small files keep Python busy, which threads share; arrays are Pillow's work alone
    many = not isinstance(images, np.ndarray) and len(images) >= _MANY
    with (
        warnings_kept,
        (processes if many else _threads)(work, parts) as blocks,
        tqdm(total=len(images), desc=f"{name}: converting", unit="image", disable=None, delay=0.5) as bar,
    ):
        for place, block in zip(places, blocks, strict=True):
            yield place, block
            bar.update(len(place))


@contextmanager
def _threads(work: partial[_Block], parts: Sequence[Images]) -> Iterator[Iterator[_Block]]:
    """Yield the results of `work`, in the order of `parts`, done by a thread for each core."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool.map(work, parts)
    finally:
        pool.shutdown(cancel_futures=True)


def _block(images: Images, chain: Chain, skip: bool) -> _Block:
    """Return what becomes of some pictures; one that needs levels has a row of zeros."""
    block = _Block(np.zeros((len(images), chain.channels, chain.size, chain.size), np.uint8))
    kept = 0
    for row, image in enumerate(images):
        remarks: list[Remark] = []
        try:
            block.images[kept] = converted(image, chain, remarks)
        except Undeclared as error:
            block.undeclared[row] = error.extremes
        except InputError as error:
            if not skip:
                raise
            block.unreadable[row] = str(error).removeprefix(f"{image}: ")
            kept -= 1
        kept += 1
        if remarks:
            block.remarks[row] = remarks
    block.images = block.images[:kept]
    return block


def converted(
    image: np.ndarray | str | Path, chain: Chain, remarks: list[Remark], content: bytes | None = None
) -> np.ndarray:
    """Return uint8 [channels, size, size] of pixels (uint8 [H, W(, 3)]), or of the picture in a file.

    content: the bytes of the file, where they have been read already; `image` is then what messages call it.
    remarks: gets what is to be said of the picture. Raises InputError naming a file that cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        picture = from_array(np.ascontiguousarray(image))
    elif split_box(image)[1] is not None:
        picture = read_image(image, content, levels=chain.levels, ask=chain.ask, remarks=remarks)
    else:
        try:
            if content is None:
                content = read_bytes(image)
            check_file(len(content))
        except TooMuch as error:
            raise InputError(f"{image}: {error}") from None
        except OSError as error:
            raise InputError(f"{image}: cannot be read ({error}); repair or remove it") from None
        picture = _decoded(content, image, chain, remarks)
    return _squared(picture, chain, remarks)


def _decoded(content: bytes, name: str | Path, chain: Chain, remarks: list[Remark]) -> Image.Image:
    pixels = decode_plain(content)
    if pixels is None:
        return read_image(name, content, levels=chain.levels, ask=chain.ask, remarks=remarks)
    return from_array(pixels)


def _squared(picture: Image.Image, chain: Chain, remarks: list[Remark]) -> np.ndarray:
    width, height = picture.size
    if chain.square == "crop" and 2 * max(width, height) > 3 * min(width, height):
        remarks.append((CUT, f"{width} x {height} pixels"))
    return to_array(picture, chain.size, chain.channels, chain.square, chain.filter, chain.resize_to)
