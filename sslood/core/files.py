"""Files that pass between stages: safetensors with JSON metadata inside, and JSON.

Every file is written under a temporary name and renamed, so a reader sees all of it or nothing,
and its bytes depend on its content alone (sorted keys; no dates, host names or timings).
"""

import json
import math
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from sslood.core.errors import InputError, LeftOut, as_line

FORMAT = 1  # raised when a reader of today could misread a file of tomorrow
_KEY = "sslood"
_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_MAX_HEADER, _MAX_JSON = 16 << 20, 32 << 20  # bytes; as Python objects they take up to twenty times as many


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it otherwise.

    An OSError names `path`, so that `sslood.cli.command` can say which file did not fit on the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # a failed write does not say which file; people need to know
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete the temporary files in `folder` (of the file `name`, or of any) whose process is gone."""
    for part in folder.glob(f".{'*' if name is None else escape(name)}.*.part"):
        owner = part.name.split(".")[-3]
        if owner.isdecimal() and not _alive(int(owner)):
            part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def save_tensors(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray],
    *,
    kind: str,
    metadata: Mapping[str, Any],
) -> None:
    """Write `tensors` (name -> array) and `metadata` (JSON values) as one safetensors file.

    `kind` says what the file is ("set", "model", "embeddings", "scores", "detector") and is
    checked on reading. Arrays are streamed one by one, so the peak is one array, not the file.
    Raises InputError for a dtype that safetensors does not hold.
    """
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    # widest dtype first, after a header padded to 64 bytes: every array is aligned where it lies,
    # so a memory map of it can be used in place
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    content = {"kind": kind, "format": FORMAT, **metadata}
    header: dict[str, Any] = {"__metadata__": {_KEY: json.dumps(content, sort_keys=True)}}
    offset = 0
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise InputError(f"{path}: tensor {name!r} has dtype {array.dtype}, which a file cannot hold")
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    if len(text) > _MAX_HEADER:
        raise InputError(f"{path}: its names and metadata take {len(text)} bytes, a file holds {_MAX_HEADER}")
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")


class _Place(NamedTuple):
    """Where an array lies in a file: offset in bytes, dtype, shape."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


def header_length(path: Path) -> int:
    """Return the length in bytes of a safetensors header; ValueError if it is too long to be read."""
    with open(path, "rb") as file:
        first = file.read(8)
    (length,) = struct.unpack("<Q", first) if len(first) == 8 else (0,)
    if not 2 <= length <= _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return length


def _read_header(path: Path, remedy: str = "") -> tuple[dict[str, _Place], dict[str, Any]]:
    """Return the place of each array in the order of the file, and our metadata.

    The library of the format checks that offsets, shapes, dtypes and the file's length agree exactly.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy or 'run the stage that writes it, or `dvc repro`'}")
    try:
        length = header_length(path)
        with safe_open(path, "np") as content:
            entries = {name: content.get_slice(name) for name in content.offset_keys()}
            kinds = {name: (entry.get_dtype(), tuple(entry.get_shape())) for name, entry in entries.items()}
            metadata = json.loads((content.metadata() or {}).get(_KEY, "{}"))
        if not isinstance(metadata, dict) or type(metadata.get("format", FORMAT)) is not int:
            raise ValueError("its metadata is of another form")
    except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{path}: not a complete safetensors file ({as_line(error)}); "
            f"{remedy or 'delete it and run `dvc repro` again'}"
        ) from None
    places, start = {}, 8 + length
    for name, (dtype, shape) in kinds.items():
        if dtype not in _DTYPES:
            raise InputError(f"{path}: holds dtype {dtype}, which this version cannot read")
        places[name] = _Place(start, np.dtype(_DTYPES[dtype]), shape)
        start += math.prod(shape) * places[name].dtype.itemsize  # the library has checked: without a gap
    # empty arrays share their offset with the next one, and the library does not order them
    order = sorted(places.items(), key=lambda item: (item[1].start, -item[1].dtype.itemsize, item[0]))
    return dict(order), metadata


def _checked(path: Path, metadata: dict[str, Any], kind: str | None, remedy: str = "") -> dict[str, Any]:
    """Return the metadata if it is of `kind` and not from a newer version."""
    if kind is not None and metadata.get("kind") != kind:
        found = as_line(repr(metadata.get("kind", "file of another program")), 60)
        advice = f"; {remedy}" if remedy else ""
        raise InputError(f"{path}: expected a file of kind {kind!r}, found {found}{advice}")
    if metadata.get("format", FORMAT) > FORMAT:
        raise InputError(f"{path}: written by a newer version (format {metadata['format']}); update this one")
    if reason := metadata.get("left_out"):
        raise LeftOut(reason)
    return metadata


def read_metadata(path: str | os.PathLike, *, kind: str | None = None) -> dict[str, Any]:
    """Return the metadata of a file without reading its tensors; InputError if it is not of `kind`."""
    return _checked(Path(path), _read_header(Path(path))[1], kind)


def load_tensors(
    path: str | os.PathLike,
    *,
    kind: str | None = None,
    only: Iterable[str] | None = None,
    remedy: str = "",
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (name -> array, metadata). Arrays are copy-on-write memory maps: opening reads nothing.

    `only` restricts the names; `remedy` is what to do about a file that is no such file, where no stage
    writes it. Raises InputError if the file is missing, cut short, of another kind, from a newer version, or
    lacks one of `only`; LeftOut, with the reason, if it was left out.
    """
    path = Path(path)
    places, metadata = _read_header(path, remedy)
    _checked(path, metadata, kind, remedy)
    names = list(places) if only is None else list(only)
    for name in names:
        if name not in places:
            raise InputError(f"{path}: no tensor {name!r}; it holds {as_line(', '.join(places) or 'none')}")
    with open(path, "rb") as file:
        return {name: _map(path, file, places[name]) for name in names}, metadata


def _map(path: Path, file: BinaryIO, place: _Place) -> np.ndarray:
    try:
        if 0 in place.shape:
            return np.empty(place.shape, place.dtype)
        # mode "c": a writable private copy on demand, since torch refuses to share read-only memory
        mapped = np.memmap(file, place.dtype, "c", place.start, place.shape or (1,))
    except (ValueError, OverflowError):
        shape = as_line(list(place.shape), 60)
        raise InputError(f"{path}: holds an array of shape {shape}, which NumPy cannot hold") from None
    return np.asarray(mapped).reshape(place.shape)


def save_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as JSON with a newline at the end; NaN and infinities are refused."""
    text = json.dumps(content, indent=2, sort_keys=False, allow_nan=False) + "\n"
    save_text(path, text)


def save_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; InputError if it is missing or broken."""
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"more than {_MAX_JSON} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it, or `dvc repro`") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({as_line(error)}); delete it and run `dvc repro` again"
        ) from None
