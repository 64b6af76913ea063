"""Options that name a file to write, refused before any work if nothing can be written there."""

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from sslood.core.errors import InputError


class OutputFile(click.ParamType):
    """A path of a file to write; `~/` is the home folder. The file need not exist, nor its folder.

    Raises InputError for what is there and no file, and if nothing can be written to its folder, or the one
    above that is to hold it.
    """

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = Path(os.path.expanduser(value))
        option = "" if param is None else f"{param.opts[0]} "
        if not path.name or path.is_dir():
            raise InputError(f"{option}{value!r} is a folder; add the name of the file to write")
        if os.path.lexists(path) and not path.is_file():
            raise InputError(f"{option}{value!r} is there and no file; choose another path")
        folder = next(above for above in path.absolute().parents if os.path.lexists(above))
        try:
            longest = os.pathconf(folder, "PC_NAME_MAX") - 32  # of the temporary name beside it
            if any(len(os.fsencode(part)) > longest for part in path.parts):
                raise InputError(f"{option}{value!r} has a name that is too long; choose a shorter one")
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"{option}{value!r} cannot be written ({folder}: {error.strerror}); choose another place"
            ) from None
        return str(path)


def check_apart(**paths: str | Path | None) -> None:
    """Raise InputError if two options, e.g. out and html, name one file."""
    seen: dict[Path, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        if (other := seen.setdefault(Path(path).expanduser().resolve(), option)) != option:
            raise InputError(f"--{other} and --{option} name one file, {path}; give each its own")
