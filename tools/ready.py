"""See that a run can start: the params as a whole are right, and DVC's own files are whole.

    python -m tools.ready            what `make repro` does first
    python -m tools.ready --params   check the params, mend nothing

A kill -9 within the few milliseconds in which DVC writes dvc.lock or .dvc/tmp/rwlock leaves it cut, and every
later `dvc repro` fails. Both can be made anew: DVC's run cache knows what has been computed.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
from dvc.lock import make_lock
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from sslood.cli.command import Command
from sslood.cli.params import check_params
from sslood.core.errors import InputError
from sslood.core.files import save_text
from sslood.core.renamed import VARIABLES


def mended(root: Path) -> Iterator[str]:
    """Put DVC's files right where a kill has cut them; yield a sentence for each that was."""
    lock = root / "dvc.lock"
    if lock.is_file() and not whole(lock.read_bytes()):
        show = ["git", "-C", str(root), "show", "HEAD:dvc.lock"]
        committed = subprocess.run(show, capture_output=True).stdout
        if whole(committed):
            save_text(lock, committed.decode())
            yield f"{lock.name} was cut off, probably by a kill: the committed one is back."
        else:
            lock.unlink()
            yield f"{lock.name} was cut off, probably by a kill: DVC writes a new one."
    held = root / ".dvc/tmp/rwlock"
    if held.is_file():
        with make_lock(f"{held}.lock", tmp_dir=str(held.parent)):  # DVC holds it as it writes
            try:
                json.loads(held.read_bytes())
            except ValueError:
                held.unlink()
                yield f".dvc/tmp/{held.name} was cut off, probably by a kill: it is removed, nothing is lost."


def whole(content: bytes) -> bool:
    """Whether these are the bytes of a dvc.lock that DVC can read."""
    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(content))
    except (YAMLError, Invalid, UnicodeDecodeError):
        return False
    return True


@click.command(cls=Command)
@click.option("--params", is_flag=True, help="Check the params alone.")
def main(params: bool) -> None:
    for name in VARIABLES.keys() & os.environ.keys():
        raise InputError(f"environment variable {name} is gone: {VARIABLES[name]}; unset it")
    check_params(Path("params.yaml"))
    for sentence in () if params else mended(Path.cwd()):
        click.echo(sentence)


if __name__ == "__main__":
    main()
