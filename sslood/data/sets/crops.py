"""Boxes of pictures: a box is a picture of its own, called FILE#xywh=left,top,width,height.

The fragment is that of the W3C's Media Fragments URI 1.0 (2012, section 4.2.2). Numbers are whole pixels of
the upright picture. A list gives boxes by its columns x0, y0, x1, y1.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from math import ceil, floor, isfinite
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from sslood.core.errors import InputError

COLUMNS = ("x0", "y0", "x1", "y1")  # edges in pixels from the left and the top; x1 and y1 lie outside the box
T = TypeVar("T")
Box = tuple[int, int, int, int]  # left, top, right, bottom
_FRAGMENT = re.compile(r"(.*)#xywh=(\d+),(\d+),(\d+),(\d+)", re.DOTALL)
_LARGEST = 1 << 24  # a coordinate beyond which there is no picture
_OVER = 1  # pixels by which rounding may put a box outside its picture
_KEPT = 4  # decoded pictures in memory, whose other boxes come next


def split_box(path: str | os.PathLike[str]) -> tuple[str, Box | None]:
    """Return (file, box) of what `with_box` wrote, (path, None) of any other path, or of a file so called."""
    text = os.fspath(path)
    if "#xywh=" not in text or (match := _FRAGMENT.fullmatch(text)) is None or os.path.lexists(text):
        return text, None
    left, top, width, height = (int(number) for number in match.groups()[1:])
    return match[1], (left, top, left + width, top + height)


def file_of(path: str | os.PathLike[str]) -> str:
    """Return the file that a picture or a box lies in."""
    return split_box(path)[0]


def file_numbers(paths: Iterable[str | os.PathLike[str]]) -> list[int]:
    """Return for each picture or box the number of the file that it lies in, by first appearance.

    Paths to one file, such as `1.png`, `./1.png` and a link to it, have one number.
    """
    number: dict[Hashable, int] = {}
    file: dict[str, Hashable] = {}
    found = []
    for text in map(file_of, paths):
        if text not in file:
            file[text] = _identity(text)
        found.append(number.setdefault(file[text], len(number)))
    return found


def _identity(file: str) -> Hashable:
    """Return what is equal for all paths to a file; of one that is not there, its absolute path."""
    try:
        about = os.stat(file)
    except (OSError, ValueError):
        return os.path.abspath(file)
    return about.st_dev, about.st_ino


def with_box(path: str, box: Box | None) -> str:
    """Return the name of a box of a picture; the picture's own without a box."""
    if box is None:
        return path
    left, top, right, bottom = box
    return f"{path}#xywh={left},{top},{right - left},{bottom - top}"


def box_of(row: Mapping[str, str], where: str) -> Box | None:
    """Return the box of a list's row, all pixels that it touches; None if its four cells are empty.

    Raises InputError, naming the row `where`, for a cell that is no number, and for a box without area, or
    left of or above the picture.
    """
    texts = [row[column].strip() for column in COLUMNS]
    if not any(texts):
        return None
    edges = []
    for column, text in zip(COLUMNS, texts, strict=True):
        try:
            edges.append(float(text))
        except ValueError:
            edges.append(float("nan"))
        if not isfinite(edges[-1]) or abs(edges[-1]) > _LARGEST:
            raise InputError(f"{where}: {column} is {text!r}; write a number of pixels")
    x0, y0, x1, y1 = edges
    for low, high, names in ((x0, x1, "x1 must be above x0"), (y0, y1, "y1 must be above y0")):
        if high <= low or high <= 0:
            raise InputError(
                f"{where}: the box {_text(edges)} has no pixel; {names}, and both within the picture"
            )
    if min(x0, y0) < -_OVER:
        raise InputError(f"{where}: the box {_text(edges)} begins outside the picture; cut it at 0")
    return max(0, floor(x0)), max(0, floor(y0)), ceil(x1), ceil(y1)


def _text(edges: list[float]) -> str:
    return f"({', '.join(f'{edge:g}' for edge in edges)})"


def cut_box(picture: Image.Image, box: Box, name: str | os.PathLike[str]) -> Image.Image:
    """Return the pixels of a box.

    Raises InputError naming the box if it has none, or lies outside by more than rounding does.
    """
    left, top, right, bottom = box
    if right == left or bottom == top:  # written as #xywh= by hand
        raise InputError(f"{name}: the box has no pixel; its width and height must be at least 1")
    width, height = picture.size
    if left >= width or top >= height or right > width + _OVER or bottom > height + _OVER:
        raise InputError(
            f"{name}: the box ends at x1 = {right}, y1 = {bottom}, outside the picture of {width} x {height} "
            "pixels; are its numbers of another size, or of the picture before EXIF turns it?"
        )
    return picture.crop((left, top, min(right, width), min(bottom, height)))


class _Entry(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: T | None = None


class LastPictures(Generic[T]):
    """The pictures that were decoded last, so that the boxes of one picture decode it once.

    Threads that want the same picture wait for the one that decodes it.
    """

    def __init__(self, count: int = _KEPT) -> None:
        self._count, self._lock = count, threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()

    def get(self, file: str, how: Hashable, decode: Callable[[], T]) -> T:
        """Return what `decode` makes of the file; `how`: what else its result depends on."""
        try:
            about = os.stat(file)
            key: Hashable = (os.path.abspath(file), about.st_mtime_ns, about.st_size, how)
        except (OSError, ValueError):
            return decode()  # which says what is wrong with it
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._count:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.found is None:
                entry.found = decode()
            return entry.found


def relative(path: str | Path, root: Path) -> str:
    """Return the name of a picture or box relative to a folder."""
    file, box = split_box(path)
    return with_box(os.path.relpath(file, root), box)
