"""One way for every picture: decode, make it upright and 8 bit, to a square, grey or colour.

All sets pass the same chain, so that none can be distinguished by its resampling.
"""

import os
import re
import stat
from contextlib import nullcontext
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from sslood.core.errors import InputError
from sslood.data.sets.bounds import TooMuch, check_file, check_image, pixel_limit, too_many
from sslood.data.sets.crops import LastPictures, cut_box, split_box
from sslood.data.sets.depth import Levels, Undeclared, depth_of, eight_bits, low_bytes
from sslood.data.sets.kinds import enable_heif, is_heif
from sslood.data.sets.notices import libtiff_heard, listening

Square = Literal["crop", "pad", "squash"]  # the way of a picture to a square
Filter = Literal["bilinear", "bicubic"]  # of Pillow: over the whole footprint, so antialiased
SLIVER = "a sliver of the range is used; if another range is meant, write its bits as `data.bits`"
ODD = "damaged or odd, but taken as far as it can be read"
_NOTHING = nullcontext()
_READ = 1 << 16  # bytes asked for at a time
_MOST = 1 << 24  # pixels of a resized picture of which the centre is cut out
_STRIP = 1 << 22  # pixels that are laid over white at a time
_WAYS = {
    "crop": "shorter side to {size} pixels by {filter}, centre crop {size}x{size}",
    "pad": "longer side to {size} pixels by {filter}, centred on black {size}x{size}",
    "squash": "both sides to {size} pixels by {filter}",
}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_TURNS = {  # EXIF's orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Remark = tuple[str, str]  # what holds for several pictures of a set; more about this one
_Whole = tuple[Image.Image, list[Remark]]  # a picture, and what is to be said of it
_LAST: LastPictures[_Whole] = LastPictures()


def chain_text(
    size: int,
    channels: int,
    square: Square = "crop",
    filter: Filter = "bilinear",
    resize_to: int | None = None,
) -> str:
    """Say in words what `to_array` does; recorded in every set's metadata."""
    colour = "grey by ITU-R 601 luma before resizing" if channels == 1 else "RGB"
    side = resize_to or size
    way = _WAYS[square].format(size=side, filter=f"Pillow's antialiased {filter} filter")
    if side != size:
        way = way.partition(", centre crop")[0] + f", centre crop {size}x{size}"
    return f"{colour}; {way}; untouched where already {side}x{side}"


def plain(image: Image.Image) -> Image.Image:
    """Return a loaded picture of 8 bits as L or RGB: transparency laid over white, palettes and CMYK as RGB.

    Raises ValueError for floating point pixels.
    """
    if image.mode == "F":
        raise ValueError("floating point pixels, whose range nobody states; save them with 8 or 16 bits")
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return image.convert("L")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    width, height = image.size
    step = max(1, _STRIP // width)  # a large picture has no room for four copies of itself
    if step >= height:
        return _over_white(image)
    out = Image.new("RGB", image.size)
    for top in range(0, height, step):
        out.paste(_over_white(image.crop((0, top, width, min(height, top + step)))), (0, top))
    return out


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def resize(
    image: Image.Image,
    size: int,
    square: Square = "crop",
    filter: Filter = "bilinear",
    resize_to: int | None = None,
) -> Image.Image:
    """Return a picture of `size` x `size` pixels, filtered over the whole footprint, so antialiased.

    crop: shorter side to `size`, then the centre; pad: longer side to `size`, on black; squash: both sides.
    resize_to: what crop and squash make the side before the centre of `size` is cut out, as the publishers of
    ImageNet's weights do (256, of which 224 remain); at least `size`, which it is by default.
    """
    how, to = _FILTERS[filter], resize_to or size
    if image.size == (size, size) == (to, to):
        return image
    if square == "squash":
        image = image.resize((to, to), how)
    shape, left, top = frame(*image.size, size, square, to)
    if square == "pad":
        out = Image.new(image.mode, (size, size))
        out.paste(image.resize(shape, how), (left, top))
        return out
    if shape[0] * shape[1] > _MOST:  # a line of 100000 pixels: the same centre, without the rest
        across, down = image.width / shape[0], image.height / shape[1]
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), how, box=box)
    image = image if image.size == shape else image.resize(shape, how)
    return image if shape == (size, size) else image.crop((left, top, left + size, top + size))


def frame(
    width: int, height: int, size: int, square: Square = "crop", resize_to: int | None = None
) -> tuple[tuple[int, int], int, int]:
    """Return (width, height) once the picture is resized, then left and top of the square in it.

    To pad: left and top of the picture in the square. For squash, `width` and `height` once it is squashed.
    """
    if square == "pad":
        scale = size / max(width, height)
        width, height = (min(size, max(1, round(side * scale))) for side in (width, height))
        return (width, height), (size - width) // 2, (size - height) // 2
    to = resize_to or size
    scale = to / min(width, height)
    width, height = max(to, round(width * scale)), max(to, round(height * scale))
    return (width, height), (width - size) // 2, (height - size) // 2


def to_array(
    image: Image.Image,
    size: int,
    channels: int,
    square: Square = "crop",
    filter: Filter = "bilinear",
    resize_to: int | None = None,
) -> np.ndarray:
    """Return uint8 [channels, size, size], read-only, of an upright 8 bit image; see `resize`."""
    mode = "L" if channels == 1 else "RGB"
    image = resize(image if image.mode == mode else image.convert(mode), size, square, filter, resize_to)
    pixels = np.frombuffer(image.tobytes(), np.uint8)  # half the time of np.asarray
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def from_array(pixels: np.ndarray) -> Image.Image:
    """Return the image of contiguous uint8 [H, W] or [H, W, 3], without a copy where Pillow allows it."""
    height, width = pixels.shape[:2]
    mode = "L" if pixels.ndim == 2 else "RGB"
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)


def read_image(
    path: str | os.PathLike[str],
    content: bytes | None = None,
    *,
    levels: Levels | None = None,
    ask: bool = False,
    remarks: list[Remark] | None = None,
) -> Image.Image:
    """Decode one file (or its `content`, or a box of it) into an upright 8 bit image, grey or RGB.

    levels: what becomes black and white of a picture of more bits that does not say, see
    `sslood.data.sets.depth`; by default the full range of its file, or with `ask` Undeclared is raised for
    such a picture. remarks: gets what is to be said of the picture. Raises InputError that names a file that
    cannot be decoded, or would be too much work, and a box that lies outside its picture.
    """
    file, box = split_box(path)
    if box is not None:
        whole, heard = _LAST.get(file, (levels, ask), lambda: _whole(file, content, levels, ask))
        if remarks is not None:
            remarks += heard  # of every box: which of them decodes the picture depends on the threads
        return cut_box(whole, box, path)
    try:
        content = read_bytes(path) if content is None else content  # one read instead of Pillow's dozens
        with listening() as said:
            image = _decoded(content, levels, ask, said, remarks)
    except Undeclared:
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise InputError(f"{path}: {too_many(int(pixels[0]) if pixels else 0)}") from None
    except TooMuch as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # whatever a decoder raises for bytes that nobody expected
        reason = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        reason = str(reason) or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); repair or remove it") from None
    if remarks is not None and said:
        remarks.append((ODD, " ".join(said[0].split())))
    return image


def _whole(file: str, content: bytes | None, levels: Levels | None, ask: bool) -> _Whole:
    """Return the picture that boxes are cut from, and what is to be said of it."""
    heard: list[Remark] = []
    return read_image(file, content, levels=levels, ask=ask, remarks=heard), heard


def _decoded(
    content: bytes, levels: Levels | None, ask: bool, said: list[str], remarks: list[Remark] | None
) -> Image.Image:
    if (limit := pixel_limit()) > (Image.MAX_IMAGE_PIXELS or limit):
        Image.MAX_IMAGE_PIXELS = limit
    if is_heif(content[:12]):
        enable_heif()
    with Image.open(BytesIO(content)) as opened:
        depth = depth_of(opened, content)
        check_image(opened, content, is_deep=depth is not None)
        if opened.format == "EPS":  # Ghostscript would run it
            raise ValueError("a PostScript program, not a picture")
        image: Image.Image = opened
        planes = [image]
        with libtiff_heard() if opened.tile and opened.tile[0][0] == "libtiff" else _NOTHING:
            opened.load()
            if depth is not None and depth.layout:
                planes.append(low_bytes(Image.open(BytesIO(content))))
        turn = _turn(image, said)
        if depth is not None:
            image, remark = eight_bits(planes, depth, levels, ask)
            if remark and remarks is not None:
                remarks.append((SLIVER, remark))
        upright = plain(image)
    del opened, image, planes  # before a large picture is turned
    return upright if turn is None else upright.transpose(turn)


def _turn(image: Image.Image, said: list[str]) -> Image.Transpose | None:
    """Return what makes a picture upright by its EXIF or XMP, None if it is."""
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception as error:  # the pixels are sound all the same
        said.append(f"its EXIF cannot be read ({error}), so it is taken as it lies")
        return None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file by a few system calls, half of what Python's files need.

    Raises OSError for what cannot be opened, and for what is no regular file; TooMuch for more bytes than a
    picture may have, before memory is full of them.
    """
    flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # no waiting for a pipe
    file = os.open(path, os.O_RDONLY | flags)
    try:
        parts = [os.read(file, _READ)]
        if len(parts[0]) in (0, _READ):  # most pictures are small, and their files regular
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode):  # a device may have no end
                raise OSError("no regular file")
            check_file(about.st_size)
        while len(parts[-1]) == _READ:
            parts.append(os.read(file, _READ))
    finally:
        os.close(file)
    return parts[0] if len(parts) == 1 else b"".join(parts)
