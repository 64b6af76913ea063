"""One way for every picture: decode, make it upright and 8 bit, resize, grey or colour.

All sets pass the same chain, so that none can be told by its resampling.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from stages.core.errors import InputError
from stages.data.sets.jpeg import decode_plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
_BLOCK = 128  # pictures a thread or process takes at a time
_MANY = 1000  # files from which processes pay
_ALIKE = 4  # pictures of one shape from which resizing them together pays
_TOGETHER = 16  # at most so many at once: more would not stay in the processor's cache
_READ = 1 << 16  # bytes asked for at a time
_SMALL = 1 << 18  # bytes of a picture up to which it is held back until others of its shape have come
Images = np.ndarray | Sequence[str | Path]


def chain_text(size: int, channels: int) -> str:
    """Say in words what `to_array` does; stands in every set's metadata."""
    colour = "grey by ITU-R 601 luma before resizing" if channels == 1 else "RGB"
    return (
        f"{colour}; shorter side to {size} pixels by Pillow's antialiased bilinear filter, centre crop "
        f"{size}x{size}; untouched where already {size}x{size}"
    )


def upright(image: Image.Image) -> Image.Image:
    """Return `image` as 8 bit L or RGB, turned as its EXIF tag says.

    16 bit grey is divided by 257, transparency is laid over white, palettes and CMYK become RGB.
    Raises ValueError for floating point pixels, whose range nobody states.
    """
    if image.getexif():
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # I, I;16, I;16B: 16 bit PNG and TIFF
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("pixels of more than 16 bit")
        return Image.fromarray(np.rint(wide / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating point pixels")
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size` (bilinear over the whole footprint, so antialiased), then the centre."""
    if image.size == (size, size):
        return image
    shape, left, top = _frame(*image.size, size)
    image = image.resize(shape, Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def _frame(width: int, height: int, size: int) -> tuple[tuple[int, int], int, int]:
    """Return (width, height) once the shorter side is `size` pixels, then left and top of the centre."""
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    return (width, height), (width - size) // 2, (height - size) // 2


def to_array(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return uint8 [channels, size, size] of an upright 8 bit image."""
    mode = "L" if channels == 1 else "RGB"
    image = resize(image if image.mode == mode else image.convert(mode), size)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def to_arrays(stack: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Return uint8 [N, channels, size, size]: what `to_array` gives for each of uint8 [N, H, W(, 3)].

    Pillow filters along one axis, rounds, then along the other. One below the other all pictures share
    the pass along rows, side by side that along columns: two calls a stack instead of several a picture.
    """
    mode, (count, height, width) = "L" if channels == 1 else "RGB", stack.shape[:3]
    columns_first = _columns_first(height, width, size)
    if columns_first is None:
        return np.stack([to_array(Image.fromarray(picture), size, channels) for picture in stack])
    image = Image.fromarray(stack.reshape(count * height, *stack.shape[2:]))
    if image.mode != mode:
        stack = np.asarray(image.convert(mode))
    stack = stack.reshape(count, height, width, channels)
    shape, left, top = _frame(width, height, size)
    for axis in (1, 2) if columns_first else (2, 1):
        stack = _along(stack, axis, shape[2 - axis])
        stack = stack[:, top : top + size] if axis == 1 else stack[:, :, left : left + size]
    return stack.transpose(0, 3, 1, 2)


def _along(stack: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Filter uint8 [N, H, W, C] along its axis 1 or 2 to `length`."""
    count, height, width, channels = stack.shape
    if stack.shape[axis] == length:
        return stack
    lines = stack.swapaxes(0, 1).reshape(height, -1, channels) if axis == 1 else stack
    lines = np.ascontiguousarray(lines).reshape(-1, lines.shape[-2], channels)
    image = Image.fromarray(lines[..., 0] if channels == 1 else lines)
    shape = (image.width, length) if axis == 1 else (length, image.height)
    array = np.asarray(image.resize(shape, Image.Resampling.BILINEAR))
    if axis == 1:
        return array.reshape(length, count, width, channels).swapaxes(0, 1)
    return array.reshape(count, height, length, channels)


@lru_cache(maxsize=1024)
def _columns_first(height: int, width: int, size: int) -> bool | None:
    """Say along which axis Pillow filters pictures of this shape first; None: neither explains what it does.

    Pillow's rule is its own and the bytes depend on it, so noise is sent through to find out.
    """
    noise = np.random.default_rng(0).integers(0, 256, (8, height, width, 1), np.uint8)
    shape, _, _ = _frame(width, height, size)
    whole = [Image.fromarray(plane[..., 0]).resize(shape, Image.Resampling.BILINEAR) for plane in noise]
    for first in (False, True):
        found = noise
        for axis in (1, 2) if first else (2, 1):
            found = _along(found, axis, shape[2 - axis])
        if np.array_equal(found[..., 0], np.stack(whole)):
            return first
    return None


def read_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """Decode one file (or its `content`) into an upright 8 bit image; InputError names it if that fails."""
    try:
        content = (
            Path(path).read_bytes() if content is None else content
        )  # one read instead of Pillow's dozens
        with Image.open(BytesIO(content)) as image:
            image.load()
            return upright(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{path}: more pixels than a picture may have (decompression bomb); remove it"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        reason = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{path}: cannot be read ({reason}); repair or remove it") from None


def convert(
    images: Images, size: int, channels: int, name: str, unreadable: list[int] | None = None
) -> np.ndarray:
    """Return uint8 [N, channels, size, size] of `images`: uint8 [N, H, W(, 3)] or paths of files.

    A file that cannot be decoded stops with an InputError; if a list `unreadable` is given, its position
    goes in there instead and its row is left out.
    All cores work, the peak is the result plus a few pictures.
    """
    count = len(images)
    shape = getattr(images, "shape", ())
    if shape[1:] == (size, size, 3) and channels == 3:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if shape[1:] == (size, size) and channels == 1:
        return np.ascontiguousarray(images[:, None])
    out = np.empty((count, channels, size, size), np.uint8)
    starts = range(0, count, _BLOCK)
    items = images if shape else [str(path) for path in images]  # strings travel faster than paths
    jobs = (items[start : start + _BLOCK] for start in starts)
    skip = unreadable is not None
    bar = tqdm(total=count, desc=f"{name}: converting", unit="image", disable=None, delay=0.5)
    with bar, _pool(0 if shape else count) as pool:
        try:
            blocks = pool.map(_block, jobs, repeat(size), repeat(channels), repeat(skip))
            for start, (block, bad) in zip(starts, blocks, strict=True):
                out[start : start + len(block)] = block
                if bad:
                    unreadable.extend(start + row for row in bad)
                bar.update(len(block))
        finally:
            pool.shutdown(cancel_futures=True)
    return np.delete(out, unreadable, axis=0) if unreadable else out


def _pool(files: int) -> Executor:
    """Return processes for many files (small ones keep Pillow's Python busy, which threads share), threads
    else. Forked where that is safe and costs nothing: a set is made before anything starts a thread."""
    if files < _MANY:
        return ThreadPoolExecutor(os.cpu_count())
    how = "fork" if sys.platform == "linux" else "spawn"
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context(how))


def _block(items: Images, size: int, channels: int, skip: bool) -> tuple[np.ndarray, list[int]]:
    """Return uint8 [n, channels, size, size] of some pictures, and the rows that could not be decoded."""
    if isinstance(items, np.ndarray):
        return to_arrays(items, size, channels), []
    out, bad = np.zeros((len(items), channels, size, size), np.uint8), []
    alike: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}  # small pictures by shape
    for row, path in enumerate(items):
        try:
            found = _decoded(path)
        except InputError:
            if not skip:
                raise
            bad.append(row)
            continue
        if not isinstance(found, np.ndarray):
            out[row] = to_array(found, size, channels)
        elif found.nbytes > _SMALL:
            out[row] = to_array(Image.fromarray(found), size, channels)
        else:
            group = alike.setdefault(found.shape, [])
            group.append((row, found))
            if len(group) == _TOGETHER:
                _settle(out, alike.pop(found.shape))
    for group in alike.values():
        _settle(out, group)
    return out, bad


def _settle(out: np.ndarray, group: list[tuple[int, np.ndarray]]) -> None:
    """Put the pictures of `group`, of one shape, into their rows of `out`."""
    (_, channels, size, _), (rows, pictures) = out.shape, zip(*group, strict=True)
    if len(rows) < _ALIKE:
        for row, picture in group:
            out[row] = to_array(Image.fromarray(picture), size, channels)
        return
    first, behind = rows[0], rows[-1] + 1
    where = slice(first, behind) if behind - first == len(rows) else list(rows)  # a slice is far quicker
    out[where] = to_arrays(np.stack(pictures), size, channels)


def _decoded(path: str | Path) -> np.ndarray | Image.Image:
    """Return the pixels of a file: an array of a plain JPEG, an upright image of anything else."""
    try:
        content = _content(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); repair or remove it") from None
    plain = decode_plain(content)
    return read_image(path, content) if plain is None else plain


def _content(path: str | Path) -> bytes:
    """Return the bytes of a file by three system calls if it is small, half of what Python's files need."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        parts = [os.read(file, _READ)]
        while len(parts[-1]) == _READ:
            parts.append(os.read(file, _READ))
    finally:
        os.close(file)
    return parts[0] if len(parts) == 1 else b"".join(parts)
