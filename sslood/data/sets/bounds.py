"""How much work one picture may be: a file of a few hundred bytes can ask for all memory, or for hours.

The limit is 64 megapixels, or SSLOOD_MEGAPIXELS. What takes more memory or time per pixel counts more often
(`_WEIGHTS`), so that no picture takes more than 1 GB and 10 seconds under the usual limit.
"""

import os
from functools import cache

from PIL import Image, ImageFile

from sslood.core.errors import InputError

VARIABLE = "SSLOOD_MEGAPIXELS"
USUAL = 64  # million pixels
_WEIGHTS = {
    "WEBP": 2,
    "AVIF": 2,
    "HEIF": 2,
    "JPEG2000": 3,
}  # formats whose decoders need so many times the memory
_PYTHON = 32  # decoders that are written in Python (QOI, text, some DDS) need so many times the time
_FEW = 1_000_000  # pixels that are always allowed, and not looked at any further
_BYTES = 4  # bytes of a file per pixel of the limit
_SCANS = 20  # passes over a progressive JPEG file of the largest size; cameras write ten


class TooMuch(OSError):
    """A picture whose work is bounded; the text says what it has and what it may have."""


def pixel_limit() -> int:
    """Return how many pixels a picture may have; InputError if the variable holds no number of at least 1."""
    return _pixels(os.environ.get(VARIABLE, ""))


@cache
def _pixels(text: str) -> int:
    try:
        limit = float(text or USUAL)
    except ValueError:
        limit = 0
    if not 1 <= limit < 1e6:
        raise InputError(f"environment variable {VARIABLE} is {text!r}; use a number of at least 1")
    return round(limit * 1e6)


def check_file(length: int) -> None:
    """Raise TooMuch for a file of more bytes than a picture within the limit has."""
    if length > _BYTES * (limit := pixel_limit()):
        raise _too_much(
            f"{length / 1e6:,.0f} MB", f"the {_BYTES * limit / 1e6:,.0f} MB that a picture may have"
        )


def check_image(image: ImageFile.ImageFile, content: bytes, *, is_deep: bool) -> None:
    """Raise TooMuch for an opened picture that would be too much work; its pixels are not decoded.

    is_deep: of more than 8 bits, so that two images are needed, or one of 32 bits.
    """
    weight = _WEIGHTS.get(image.format or "", 1)
    if image.tile and image.tile[0][0] in Image.DECODERS:
        weight = _PYTHON
    elif is_deep:
        weight = max(weight, 2)
    width, height = image.size
    if (pixels := width * height) * weight > _FEW and pixels * weight > pixel_limit():
        raise too_many(pixels, weight)
    if image.format in ("JPEG", "MPO"):
        check_jpeg(width, height, content)


def check_jpeg(width: int, height: int, content: bytes) -> None:
    """Raise TooMuch for a JPEG file with too many pixels, or whose scans pass over them too often."""
    if (pixels := width * height) <= _FEW:
        return
    if pixels > (limit := pixel_limit()):
        raise too_many(pixels)
    if (scans := content.count(b"\xff\xda")) * pixels > _SCANS * limit:
        allowed = f"the {_SCANS * limit // pixels:,} that a picture of its size may have"
        raise _too_much(f"{scans:,} scans of {pixels / 1e6:,.1f} megapixels", allowed)


def too_many(pixels: int, weight: int = 1) -> TooMuch:
    """Return what to raise for a picture of so many pixels, whose kind counts `weight` times."""
    kind = " of its format" if weight > 1 else ""
    allowed = f"the {pixel_limit() / weight / 1e6:,.3g} that a picture{kind} may have"
    return _too_much(f"{pixels / 1e6:,.1f} megapixels", allowed)


def _too_much(found: str, allowed: str) -> TooMuch:
    return TooMuch(
        f"has {found}, more than {allowed}; make it smaller or remove it, or raise the limit by the "
        f"environment variable {VARIABLE} (now {pixel_limit() / 1e6:g})"
    )
