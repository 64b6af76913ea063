"""One way for every picture: decode, make it upright and 8 bit, resize, grey or colour.

All sets pass the same chain, so that none can be distinguished by its resampling.
"""

import os
import stat
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sslood.core.errors import InputError
from sslood.data.sets.kinds import enable_heif, is_heif

_READ = 1 << 16  # bytes asked for at a time


def chain_text(size: int, channels: int) -> str:
    """Say in words what `to_array` does; recorded in every set's metadata."""
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
    shape, left, top = frame(*image.size, size)
    image = image.resize(shape, Image.Resampling.BILINEAR)
    return image if shape == (size, size) else image.crop((left, top, left + size, top + size))


def frame(width: int, height: int, size: int) -> tuple[tuple[int, int], int, int]:
    """Return (width, height) once the shorter side is `size` pixels, then left and top of the centre."""
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    return (width, height), (width - size) // 2, (height - size) // 2


def to_array(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return uint8 [channels, size, size], read-only, of an upright 8 bit image."""
    mode = "L" if channels == 1 else "RGB"
    image = resize(image if image.mode == mode else image.convert(mode), size)
    pixels = np.frombuffer(image.tobytes(), np.uint8)  # half the time of np.asarray
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def from_array(pixels: np.ndarray) -> Image.Image:
    """Return the image of contiguous uint8 [H, W] or [H, W, 3], without a copy where Pillow allows it."""
    height, width = pixels.shape[:2]
    mode = "L" if pixels.ndim == 2 else "RGB"
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)


def read_image(path: str | os.PathLike[str], content: bytes | None = None) -> Image.Image:
    """Decode one file (or its `content`) into an upright 8 bit image; InputError names it if that fails."""
    try:
        content = read_bytes(path) if content is None else content  # one read instead of Pillow's dozens
        if is_heif(content[:12]):
            enable_heif()
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


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file by a few system calls, half of what Python's files need.

    Raises OSError for what cannot be opened, and for what is no regular file.
    """
    flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # no waiting for a pipe
    file = os.open(path, os.O_RDONLY | flags)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):  # a device may have no end
            raise OSError("no regular file")
        parts = [os.read(file, _READ)]
        while len(parts[-1]) == _READ:
            parts.append(os.read(file, _READ))
    finally:
        os.close(file)
    return parts[0] if len(parts) == 1 else b"".join(parts)
