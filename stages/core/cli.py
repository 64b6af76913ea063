"""What all stage scripts share: a command that fails with one sentence, and strict params sections."""

import errno
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import click
import yaml

from stages.core.errors import InputError, out_of_memory

T = TypeVar("T")
PATIENCE = 3.0  # seconds by which processes of one run fail apart, at most
LOST = "another process of the run ended; run the same command again to go on"
_SAY = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "the file grew beyond the limit of the file system or of `ulimit -f`",
    errno.EROFS: "the file system is read-only; choose a place that can be written to",
    errno.EACCES: "permission denied; check who owns it",
    errno.EEXIST: "is a file where a folder should be; move it or choose another path",
    errno.ENOTDIR: "is a file where a folder should be; move it or choose another path",
    errno.EISDIR: "is a folder where a file should be; move it or choose another path",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; unwinds like Ctrl-C, so that checkpoints are saved and temporary files go."""


def _terminate(signum, frame):
    raise Terminated


def _place(error: OSError) -> str:
    """Return the path that an error is about: of a renaming its aim, of a path through a file that file."""
    path = Path(error.filename2 or error.filename or "writing")
    if error.errno == errno.ENOTDIR:
        path = next((above for above in path.parents if above.is_file()), path)
    return str(path)


def _lost(error: BaseException) -> bool:
    """Whether an error of torch.distributed (known by its words) says that another process is gone."""
    texts = ("Connection closed by peer", "Connection reset by peer", "gloo/transport", "NCCL")
    return any(text in str(error) for text in texts)


def _tell(message: str, status: int) -> None:
    """Say what ended the stage; of several processes one says it.

    All but the first wait: where that fails alike it speaks, and torchrun ends the others meanwhile. So does
    who lost another: that one has spoken, or what ended it is said by whoever started them.
    """
    if os.environ.get("RANK", "0") != "0" or message == LOST:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PATIENCE)
    if "WORLD_SIZE" not in os.environ or status not in (130, 143):
        click.echo(f"Error: {message}", err=True)


class StageCommand(click.Command):
    """A click command that ends with one sentence and a non-zero status on whatever a user can cause.

    Exit status: 2 wrong params or options, 1 wrong input or disk, 130 Ctrl-C, 143 SIGTERM.
    Set SSLOOD_DEBUG=1 to see the traceback instead.
    """

    def main(self, *args, **kwargs):
        signal.signal(signal.SIGTERM, _terminate)
        if os.environ.get("SSLOOD_DEBUG") == "1":
            return super().main(*args, **kwargs)
        message, status = self._run(*args, **kwargs)
        if status:
            _tell(message, status)
        sys.stdout.flush()
        sys.exit(status)

    def _run(self, *args, **kwargs) -> tuple[str, int]:
        try:
            super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.UsageError as error:
            return f"{error.format_message()} (options come from the stage's section in params.yaml)", 2
        except click.ClickException as error:
            return error.format_message(), 1
        except InputError as error:
            return str(error), 1
        except OSError as error:
            if error.errno not in _SAY:
                raise
            return f"{_place(error)}: {_SAY[error.errno]}", 1
        except click.Abort as error:  # what click makes of a KeyboardInterrupt
            if isinstance(error.__cause__, Terminated):
                return "stopped by SIGTERM; run the same command again to go on", 143
            return "interrupted; run the same command again to go on", 130
        except (RuntimeError, MemoryError) as error:  # after click.Abort, which is a RuntimeError
            if "WORLD_SIZE" in os.environ and _lost(error):
                return LOST, 1
            if not out_of_memory(error):
                raise
            return "out of memory; use smaller networks, images or batches, or a machine that has more", 1
        return "", 0


def read_section(where: str) -> dict[str, Any]:
    """Return the mapping at FILE:KEY[.KEY...] of a YAML file, e.g. "params.yaml:objectives.simclr".

    Raises InputError if the file, the key or a mapping under it is missing.
    """
    name, _, key = where.partition(":")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{path}: no such file; run from the top of the repository")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            names = ", ".join(map(str, content)) if isinstance(content, Mapping) else "no keys"
            raise InputError(f"{path}: no section {key!r}: {part!r} is not among {names}")
        content = content[part]
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: section {key!r} must hold keys and values, found {content!r}")
    return dict(content)


def strict(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return `kind(**values)` for a dataclass, refusing missing, unknown and wrongly typed keys.

    `where` names the section in the messages. Field types may be int, float, bool, str,
    tuple[X, ...] and Literal[...]. A dataclass default makes a key optional.
    """
    known = {field.name: field for field in fields(kind)}
    for name in values:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"{where}: unknown key {name!r}{hint}; known: {', '.join(known)}")
    missing = [
        n
        for n, f in known.items()
        if n not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise InputError(f"{where}: missing key {missing[0]!r}")
    return kind(
        **{name: _typed(known[name].type, value, f"{where}.{name}") for name, value in values.items()}
    )


def checked(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return `strict(kind, values, where)`, where the dataclass' own checks name the section `where` too."""
    try:
        return strict(kind, values, where)
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from None


def _typed(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: must be a list, found {value!r}")
        return tuple(_typed(get_args(kind)[0], item, where) for item in value)
    if origin is not None and str(origin).endswith("Literal"):
        if value not in get_args(kind):
            raise InputError(
                f"{where}: must be one of {', '.join(map(str, get_args(kind)))}, found {value!r}"
            )
        return value
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: must be of type {kind.__name__}, found {value!r}")
    return value
