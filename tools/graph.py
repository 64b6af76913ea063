"""The stages of dvc.yaml as DVC resolves them: one cell for each item of a `foreach` or `matrix`.

A cell has its command, its deps and outs, and the values of the params that it declares.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from sslood.core.errors import InputError

FRESH = 2.0  # seconds in which a file may change again without another time of change
_TERM = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Cell:
    """One stage: name as DVC prints it, command, paths, and its params as JSON."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: str

    def needs(self, other: "Cell") -> bool:
        """Whether a dep is an out of the other, lies in one, or holds one."""
        return any(_meet(dep, out) for dep in self.deps for out in other.outs)


def _meet(one: str, other: str) -> bool:
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def cells(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> list[Cell]:
    """Return every cell of a pipeline (what dvc.yaml holds) under these params."""
    found = []
    for name, stage in pipeline["stages"].items():
        for suffix, definition, scope in _items(stage, params):
            filled = _filled(definition, scope)
            outs = [_path(out) for kind in ("outs", "metrics", "plots") for out in filled.get(kind, [])]
            keys = filled.get("params", [])
            values = {key: value_at(params, key) for key in keys if isinstance(key, str)}
            deps = tuple(map(str, filled.get("deps", [])))
            record = json.dumps(values, sort_keys=True)
            found.append(Cell(name + suffix, " ".join(filled["cmd"].split()), deps, tuple(outs), record))
    return found


def _items(
    stage: Mapping[str, Any], params: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Yield (suffix of the name, definition, what `${...}` may name) of each item."""
    if "foreach" in stage:
        over = _filled(stage["foreach"], params)
        keyed = isinstance(over, Mapping)
        for key in over:
            own = {"key": key, "item": over[key]} if keyed else {"item": key}
            yield f"@{key}", stage["do"], {**params, **own}
    elif "matrix" in stage:
        axes = {axis: _filled(values, params) for axis, values in stage["matrix"].items()}
        for values in product(*axes.values()):
            suffix = "-".join(map(str, values))
            item = dict(zip(axes, values, strict=True))
            yield f"@{suffix}", stage, {**params, "item": item, "key": suffix}
    else:
        yield "", stage, dict(params)


def _path(out: Any) -> str:
    return next(iter(out)) if isinstance(out, Mapping) else str(out)


def value_at(scope: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path; InputError that names it if there is none."""
    value: Any = scope
    for word in path.split("."):
        if not isinstance(value, Mapping) or word not in value:
            raise InputError(f"params.yaml: {path} is missing, which dvc.yaml names")
        value = value[word]
    return value


def _filled(value: Any, scope: Mapping[str, Any]) -> Any:
    """Return a value with `${...}` replaced; of a mapping, a command gets `--key value`."""
    if isinstance(value, str):
        if whole := _TERM.fullmatch(value):
            return value_at(scope, whole[1])
        return _TERM.sub(lambda match: _word(value_at(scope, match[1])), value)
    if isinstance(value, Mapping):
        return {_filled(key, scope): _filled(part, scope) for key, part in value.items()}
    return [_filled(part, scope) for part in value] if isinstance(value, list) else value


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"--{key} {part}" for key, part in value.items())
    return str(value)


def order(graph: Sequence[Cell]) -> list[Cell]:
    """Return the cells so that each comes after what it needs, else in the order of dvc.yaml."""
    left, ordered = list(graph), list[Cell]()
    while left:
        ready = [cell for cell in left if not any(cell.needs(other) for other in left if other is not cell)]
        if not ready:
            raise InputError(f"dvc.yaml: {left[0].name} and others need each other; break the cycle")
        ordered += ready
        left = [cell for cell in left if cell not in ready]
    return ordered


def needed(graph: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """Return the cells of these stages, or of one item of them, and what they need; all if none is named."""
    if not names:
        return list(graph)
    for name in names:
        if not any(name in (cell.name, cell.name.partition("@")[0]) for cell in graph):
            stages = ", ".join(dict.fromkeys(cell.name.partition("@")[0] for cell in graph))
            raise InputError(f"{name}: no such stage; there are: {stages}")
    chosen = {cell.name for cell in graph if {cell.name, cell.name.partition("@")[0]} & set(names)}
    for cell in reversed(graph):  # what is needed comes earlier
        if cell.name in chosen:
            chosen |= {other.name for other in graph if cell.needs(other)}
    return [cell for cell in graph if cell.name in chosen]


def digest(cell: Cell) -> str:
    """Return a hash of all that a cell's outputs depend on: command, params, and the bytes of its deps."""
    total = hashlib.sha256(f"{cell.cmd}\n{cell.params}\n".encode())
    for dep in cell.deps:
        root = Path(dep)
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        for path in files:
            if "__pycache__" in path.parts or not path.is_file():
                continue
            about = path.stat()
            version = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
            fresh = time.time() - about.st_mtime < FRESH
            content = (_hashed.__wrapped__ if fresh else _hashed)(path, *version)
            total.update(path.as_posix().encode() + content)
    return total.hexdigest()


@lru_cache(maxsize=1 << 16)
def _hashed(path: Path, *version: int) -> bytes:
    """Return the hash of a file, which is taken once for each version (device, inode, size, time) of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
