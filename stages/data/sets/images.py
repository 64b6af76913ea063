"""One way for every picture: decode, make it upright and 8 bit, resize, grey or colour.

All sets pass the same chain, so that none can be told by its resampling.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from stages.core.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
_BLOCK = 64  # pictures a thread or process takes at a time
_MANY = 1000  # files from which processes pay
Images = np.ndarray | Sequence[Path]


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
    width, height = image.size
    if (width, height) == (size, size):
        return image
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_array(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return uint8 [channels, size, size] of an upright 8 bit image."""
    mode = "L" if channels == 1 else "RGB"
    image = resize(image if image.mode == mode else image.convert(mode), size)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def read_image(path: Path) -> Image.Image:
    """Decode one file into an upright 8 bit image; InputError names it if that fails."""
    try:
        with Image.open(BytesIO(path.read_bytes())) as image:  # one read instead of Pillow's dozens
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
    jobs = (images[start : start + _BLOCK] for start in starts)
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
    out, bad = np.zeros((len(items), channels, size, size), np.uint8), []
    for row, item in enumerate(items):
        try:
            image = Image.fromarray(item) if isinstance(item, np.ndarray) else read_image(item)
            out[row] = to_array(image, size, channels)
        except InputError:
            if not skip:
                raise
            bad.append(row)
    return out, bad
