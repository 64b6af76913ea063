"""Weights from outside: located or fetched, compared with their checksum, read without running their code."""

import io
import os
import pickle
import re
import warnings
import zipfile
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import torch
from filelock import FileLock
from safetensors.torch import load_file

from sslood.core.errors import InputError, as_line
from sslood.core.files import header_length
from sslood.data.sets.fetching.fetch import cache_folder, writable
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.fetching.transfer import compare, download, reason, sums

MAX_RATIO, MAX_PICKLE = 10, 2 << 20  # of the records to the file; bytes of the names and what lies beside


def is_address(place: str) -> bool:
    """Whether a place is an address rather than a path."""
    return place.startswith(("http://", "https://"))


def file_name(place: str) -> str:
    """Return the name of the file at a path, or at an address without its query (`?download=true`).

    Its ending says how it is read.
    """
    return (urlsplit(place).path if is_address(place) else place).rsplit("/", 1)[-1]


def locate_weights(place: str, sha256: str) -> Path:
    """Return the file of `located`."""
    return located(place, sha256)[0]


def located(place: str, sha256: str) -> tuple[Path, str]:
    """Return (file, its sha256) of `place`: a path, a path below SSLOOD_DATA_MIRROR, or an address (cached).

    sha256: all digits, or at least the first 8. Raises InputError if the file does not exist, or has another.
    """
    mirror = os.environ.get("SSLOOD_DATA_MIRROR", "")
    file = Published(name=file_name(place), sources=(place,), sha256=sha256)
    if not is_address(place):
        paths = [Path(place)] + ([Path(mirror) / place] if mirror and not is_address(mirror) else [])
        local = next((path for path in paths if path.is_file()), None)
        if local:
            seen = sums(local)
            compare(seen, file, local)
            return local, seen.sha256
        if not is_address(mirror):
            below = f" or below {mirror}" if mirror else ""
            raise InputError(
                f"weights {place!r}: no such file here{below}; put it there, or "
                "set the environment variable SSLOOD_DATA_MIRROR to the folder that contains this path"
            )
        place = f"{mirror.rstrip('/')}/{place}"
    return _fetched(place, file)


def _fetched(address: str, file: Published) -> tuple[Path, str]:
    cached = cache_folder() / "weights" / file.sha256 / file.name
    with writable(cached.parent), FileLock(f"{cached}.lock"):
        if not cached.is_file():
            try:
                download(address, cached, file)
            except requests.RequestException as error:
                raise InputError(
                    f"weights {address}: {reason(error)}; download the file yourself and give its path"
                ) from None
        seen = sums(cached)
        compare(seen, file, cached)
    return cached, seen.sha256


class _Omitted:
    """Stands for what lies beside the weights, and keeps nothing of it."""

    def __new__(cls, *_: object) -> "_Omitted":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _omitted(title: str, *names: str) -> list[tuple[Any, str]]:
    return [(type(title, (_Omitted,), {}), name) for name in names]


def _plain_dict(*_: object) -> dict[Any, Any]:
    return {}


# what publishers keep beside the weights: nothing of it is called or kept, but a defaultdict as a dict
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
_BESIDE = [
    *_omitted("NumPy number", *(f"{module}.scalar" for module in _NUMPY)),
    *_omitted("NumPy array", *(f"{module}._reconstruct" for module in _NUMPY), "numpy.ndarray"),
    *_omitted("NumPy dtype", "numpy.dtype"),
    *_omitted("path", *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS)),
    *_omitted(
        "type", *(f"builtins.{name}" for name in ("list", "dict", "tuple", "int", "float", "str", "bool"))
    ),
    (_plain_dict, "collections.defaultdict"),
]


def read_checkpoint(path: Path) -> Any:
    """Return the content of a safetensors file or a torch checkpoint; tensors on the CPU.

    Numbers and arrays of NumPy and paths beside the weights are left out. Raises InputError for a file of
    another kind, one that would unpack to more than a checkpoint does, and for a pickle of anything but
    tensors, plain containers, the above and argparse namespaces: opening it would run its code.
    """
    try:
        if path.suffix == ".safetensors":
            header_length(path)
            return load_file(path)
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_records(path)
        # a Namespace holds a publisher's options (DINO, SupContrast); creating one only sets attributes
        with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace, *_BESIDE]):
            warnings.simplefilter("ignore")  # about old formats
            with nullcontext(path) if zipped else _OldForm(io.FileIO(path)) as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        words = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0]
        found = re.search(r"GLOBAL (\S+)", str(error))
        name = as_line(found[1] if found else words)
        raise InputError(
            f"{path}: holds Python objects ({name}) besides tensors, and opening "
            "it could run code; if you trust it, save only its state dict, as safetensors"
        ) from None
    except Exception as error:  # a damaged file makes the libraries raise whatever comes
        kind = "complete safetensors file" if path.suffix == ".safetensors" else "checkpoint of torch"
        raise InputError(
            f"{path}: not a {kind} ({as_line(str(error).partition(chr(10))[0] or error)})"
        ) from None


class _OldForm(io.BufferedReader):
    """A checkpoint that is no zip file; its pickles are bounded (torch reads the values by other means)."""

    left = MAX_PICKLE // 4  # each of its bytes is a call, and so takes longer

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.left + 1 if size is None or size < 0 else min(size, self.left + 1)
        content = super().read(wanted)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"its pickle takes more than {MAX_PICKLE // 4} bytes; save only its state dict")
        return content


def _check_records(path: Path) -> None:
    """Raise ValueError for a zip file whose records are bombs; torch stores them as they are."""
    with zipfile.ZipFile(path) as file:
        sizes = {info.filename: info.file_size for info in file.infolist()}
    if sum(sizes.values()) > MAX_RATIO * path.stat().st_size:
        raise ValueError(f"its records would take more than {MAX_RATIO} times its size")
    if max((size for name, size in sizes.items() if name.endswith(".pkl")), default=0) > MAX_PICKLE:
        raise ValueError(f"its pickle takes more than {MAX_PICKLE} bytes; save only its state dict")
