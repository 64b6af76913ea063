"""Weights from outside: located or fetched, compared with their checksum, read without running their code."""

import os
import pickle
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import requests
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file

from sslood.core.errors import InputError
from sslood.data.sets.fetching.fetch import cache_folder, writable
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.fetching.transfer import compare, download, reason, sums


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def locate_weights(place: str, sha256: str) -> Path:
    """Return the file `place`: a path, a path below SSLOOD_DATA_MIRROR, or an address (then cached).

    Raises InputError if it does not exist, or has another sha256.
    """
    mirror = os.environ.get("SSLOOD_DATA_MIRROR", "")
    file = Published(name=place.rsplit("/", 1)[-1], sources=(place,), sha256=sha256)
    if not _is_address(place):
        paths = [Path(place)] + ([Path(mirror) / place] if mirror and not _is_address(mirror) else [])
        local = next((path for path in paths if path.is_file()), None)
        if local:
            compare(sums(local), file, local)
            return local
        if not _is_address(mirror):
            below = f" or below {mirror}" if mirror else ""
            raise InputError(
                f"weights {place!r}: no such file here{below}; put it there, or "
                "set the environment variable SSLOOD_DATA_MIRROR to the folder that contains this path"
            )
        place = f"{mirror.rstrip('/')}/{place}"
    return _fetched(place, file)


def _fetched(address: str, file: Published) -> Path:
    cached = cache_folder() / "weights" / file.sha256 / file.name
    with writable(cached.parent), FileLock(f"{cached}.lock"):
        if not cached.is_file():
            try:
                download(address, cached, file)
            except requests.RequestException as error:
                raise InputError(
                    f"weights {address}: {reason(error)}; download the file yourself and give its path"
                ) from None
        compare(sums(cached), file, cached)
    return cached


def read_checkpoint(path: Path) -> Any:
    """Return the content of a safetensors file or a torch checkpoint; tensors on the CPU.

    Raises InputError for a file of another kind, and for a pickle of anything but tensors, plain containers
    and argparse namespaces: opening it would run its code.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a complete safetensors file ({error})") from None
    try:
        # a Namespace holds a publisher's options (DINO, SupContrast); creating one only sets attributes
        with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):
            warnings.simplefilter("ignore")  # about old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = str(error).split("Unsupported global: GLOBAL ")[-1].split(" ")[0].splitlines()[0]
        raise InputError(
            f"{path}: holds Python objects ({name}) besides tensors, and opening it could run code; "
            "if you trust it, save only its state dict, as safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a checkpoint of torch ({text})") from None
