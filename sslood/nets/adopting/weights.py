"""Weights from outside: found or fetched, held against their checksum, read without running their code."""

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
from sslood.data.fetching.fetch import cache_folder
from sslood.data.fetching.published import Published
from sslood.data.fetching.transfer import compare, download, reason, sums


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def locate_weights(place: str, sha256: str) -> Path:
    """Return the file `place`: a path, a path below SSLOOD_DATA_MIRROR, or an address (kept in the cache).

    Raises InputError if it is nowhere, or its sha256 is not the given one.
    """
    mirror = os.environ.get("SSLOOD_DATA_MIRROR", "")
    file = Published(name=place.rsplit("/", 1)[-1], sources=(place,), sha256=sha256)
    if not _is_address(place):
        paths = [Path(place)] + ([Path(mirror) / place] if mirror and not _is_address(mirror) else [])
        found = next((path for path in paths if path.is_file()), None)
        if found:
            compare(sums(found), file, found)
            return found
        if not _is_address(mirror):
            below = f" or below {mirror}" if mirror else ""
            raise InputError(
                f"weights {place!r}: no such file here{below}; put it there, or "
                "name the folder that it lies below in the environment variable SSLOOD_DATA_MIRROR"
            )
        place = f"{mirror.rstrip('/')}/{place}"
    return _fetched(place, file)


def _fetched(address: str, file: Published) -> Path:
    cached = cache_folder() / "weights" / file.sha256 / file.name
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cached}.lock"):
        if not cached.is_file():
            try:
                download(address, cached, file)
            except requests.RequestException as error:
                raise InputError(
                    f"weights {address}: {reason(error)}; fetch the file yourself and give its path"
                ) from None
        compare(sums(cached), file, cached)
    return cached


def read_checkpoint(path: Path) -> Any:
    """Return what a safetensors file or a torch checkpoint holds; tensors on the CPU.

    Raises InputError for a file of another kind, and for a pickle that holds more than tensors, plain
    containers and options of argparse: to open it would run its code.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a complete safetensors file ({error})") from None
    try:
        # a Namespace holds a publisher's options (DINO, SupContrast); making one sets attributes, no more
        with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):
            warnings.simplefilter("ignore")  # about old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = str(error).split("Unsupported global: GLOBAL ")[-1].split(" ")[0].splitlines()[0]
        raise InputError(
            f"{path}: holds Python objects ({asked}) besides tensors, and opening it could run code; "
            "save its state dict alone, as safetensors, where you trust it"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a checkpoint of torch ({text})") from None
