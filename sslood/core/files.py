"""Files that pass between stages: safetensors with JSON metadata inside, and JSON.

Every file is written under a temporary name and renamed, so a reader sees all of it or nothing,
and its bytes depend on its content alone (sorted keys; no dates, host names or timings).
"""

import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.errors import InputError, LeftOut

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
_MAX_HEADER = 100_000_000  # the limit of the safetensors library itself


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
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and the offset of its data, checked against its size."""
    broken = f"{path}: not a complete safetensors file; delete it and run `dvc repro` again"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it, or `dvc repro`")
    size = path.stat().st_size
    with open(path, "rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise InputError(broken)
        try:
            header = json.loads(file.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise InputError(broken) from None
    if 8 + length + end != size:
        raise InputError(broken)
    return header, 8 + length


def _metadata(path: Path, header: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    metadata = json.loads(header.get("__metadata__", {}).get(_KEY, "{}"))
    if kind is not None and metadata.get("kind") != kind:
        found = metadata.get("kind", "file of another program")
        raise InputError(f"{path}: expected a file of kind {kind!r}, found {found!r}")
    if metadata.get("format", FORMAT) > FORMAT:
        raise InputError(f"{path}: written by a newer version (format {metadata['format']}); update this one")
    if reason := metadata.get("left_out"):
        raise LeftOut(reason)
    return metadata


def read_metadata(path: str | os.PathLike, *, kind: str | None = None) -> dict[str, Any]:
    """Return the metadata of a file without reading its tensors; InputError if it is not of `kind`."""
    header, _ = _read_header(Path(path))
    return _metadata(Path(path), header, kind)


def load_tensors(
    path: str | os.PathLike, *, kind: str | None = None, only: Iterable[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (name -> array, metadata). Arrays are copy-on-write memory maps: opening reads nothing.

    `only` restricts the names. Raises InputError if the file is missing, cut short, of another
    kind, from a newer version, or lacks one of `only`; LeftOut, with the reason, if it was left out.
    """
    path = Path(path)
    header, start = _read_header(path)
    metadata = _metadata(path, header, kind)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    names = list(entries) if only is None else list(only)
    for name in names:
        if name not in entries:
            raise InputError(f"{path}: no tensor {name!r}; it holds {', '.join(entries) or 'none'}")
    return {name: _map(path, start, entries[name]) for name in names}, metadata


def _map(path: Path, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise InputError(f"{path}: holds dtype {entry['dtype']}, which this version cannot read")
    shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
    if 0 in shape:
        return np.empty(shape, dtype)
    # mode "c": a writable private copy on demand, since torch refuses to share read-only memory
    mapped = np.memmap(path, dtype, "c", start + entry["data_offsets"][0], shape or (1,))
    return np.asarray(mapped).reshape(shape)


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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it, or `dvc repro`") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); delete it and run `dvc repro` again") from None
