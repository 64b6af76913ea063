"""Which files of a folder are pictures. Their content decides, unless their ending is that of a picture.

A file with such an ending is meant as a picture, so it is taken unseen, and named if it cannot be read.
"""

import os
import stat
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from sslood.core.errors import InputError

SUFFIXES = frozenset(
    {*(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")}
    | {".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF = "HEIC, for which `pip install -r requirements-heif.txt` is needed"
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# EPS would start Ghostscript, the others hold films or numbers
_NEVER = {"EPS", "WMF", "MPEG", "GRIB", "HDF5", "BUFR"}


def reason_not_taken(path: str, name: str) -> str:
    """Return why a file is not taken as a picture, or "" if it is; `name` is the last part of its path."""
    ending = os.path.splitext(name)[1].lower()
    if ending in SUFFIXES:
        return ""
    if ending in HEIF_SUFFIXES:
        return "" if find_spec("pillow_heif") else HEIF
    try:
        about = os.stat(path)
    except OSError:
        return "links to nothing"
    if not stat.S_ISREG(about.st_mode):
        return "no regular file"
    if not about.st_size:
        return "empty"
    return _by_content(path, ending)


def _by_content(path: str, ending: str) -> str:
    """`reason_not_taken` of a regular file."""
    other = f"no picture ({ending})" if ending.isascii() and 1 < len(ending) < 8 else "no picture"
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        if is_heif(head):
            return "" if find_spec("pillow_heif") else HEIF
        with warnings.catch_warnings():  # what is odd about a picture is said when it is read
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_formats(ending)):
                return ""
    except Image.DecompressionBombError:  # a picture, if a huge one
        return ""
    except PermissionError:
        return "not permitted to be read"
    except Exception:  # Pillow's readers raise almost anything over bytes that are no picture
        return other


@cache
def _formats(ending: str) -> list[str]:
    """Return Pillow's formats that a file with this ending may have; those without a mark need their own."""
    Image.init()
    own = Image.EXTENSION.get(ending)
    return [name for name, (_, mark) in Image.OPEN.items() if (mark or name == own) and name not in _NEVER]


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with the bytes `head` (12 or more) is a HEIC picture, as of a phone."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


@cache
def enable_heif() -> None:
    """Let Pillow read HEIC pictures. Raises InputError unless the package for it is installed."""
    if find_spec("pillow_heif") is None:
        raise InputError(HEIF)
    from pillow_heif import register_heif_opener

    register_heif_opener()


def what_is(place: Path) -> str:
    """Say what lies at a path, e.g. "is a zip archive", for a message about one that does not fit."""
    if not os.path.lexists(place):
        return "does not exist"
    if not os.path.exists(place):
        return "is a link to nothing"
    if not os.path.isfile(place):
        return "is a folder" if os.path.isdir(place) else "is a device or a pipe, and no regular file"
    with open(place, "rb") as file:
        head = file.read(262)
    archives = {b"PK": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}
    kind = next((name for mark, name in archives.items() if head.startswith(mark)), "")
    kind = "tar" if head[257:] == b"ustar" else "rar" if head.startswith(b"Rar!") else kind
    if kind:
        return f"is a {kind} archive; unpack it and name the folder"
    picture = not reason_not_taken(str(place), place.name)
    return "is a single picture" if picture else "is a file that is neither a list nor a picture"
