"""One way for every picture: decode, make it upright and 8 bit, resize, grey or colour.

All sets pass the same chain, so that none can be told by its resampling.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from stages.core.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
_BLOCK = 64  # pictures a thread takes at a time
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
    return image.convert("RGB")


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
    image = resize(image.convert("L" if channels == 1 else "RGB"), size)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def read_image(path: Path) -> Image.Image:
    """Decode one file into an upright 8 bit image; InputError names it if that fails."""
    try:
        with Image.open(path) as image:
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
    goes in there instead (sorted) and its row is left out.
    Both cores work (Pillow releases the lock), the peak is the result plus a few pictures.
    """
    count = len(images)
    shape = getattr(images, "shape", ())
    if shape[1:] == (size, size, 3) and channels == 3:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if shape[1:] == (size, size) and channels == 1:
        return np.ascontiguousarray(images[:, None])
    out = np.empty((count, channels, size, size), np.uint8)

    def block(start: int) -> int:
        stop = min(start + _BLOCK, count)
        for index in range(start, stop):
            item = images[index]
            try:
                out[index] = to_array(Image.fromarray(item) if shape else read_image(item), size, channels)
            except InputError:
                if unreadable is None:
                    raise
                unreadable.append(index)
        return stop - start

    bar = tqdm(total=count, desc=f"{name}: converting", unit="image", disable=None, delay=0.5)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for done in pool.map(block, range(0, count, _BLOCK)):
                bar.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
    if unreadable:
        unreadable.sort()  # threads came in any order
        return np.delete(out, unreadable, axis=0)
    return out
