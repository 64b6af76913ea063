"""Hash every output and its copy in DVC's cache anew, and say what is damaged.

    make verify          list it
    make verify FIX=1    restore it from the good copy, or remove it if there is none, for `make repro`

DVC trusts a file whose size and time have not changed. After a power cut a file may hold zeros all the same.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
from dvc.repo import Repo
from ruamel.yaml import YAML
from tqdm import tqdm

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import atomic


class Damage(NamedTuple):
    """A file that does not match its hash, the stage that makes it, and a copy that does, if there is one."""

    path: Path
    stage: str
    good: Path | None


def md5_of(path: Path) -> str:
    """Return the MD5 of a file in hexadecimal digits, as DVC names its content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def files_of(root: Path, cache: Path, stages: Mapping[str, Any]) -> Iterator[tuple[str, Path, Path]]:
    """Yield (stage, output, its copy in the cache, named by its MD5), those in folders one by one."""
    for name, stage in stages.items():
        for out in stage.get("outs", ()):
            path, md5 = root / out["path"], out.get("md5", "")
            copy = cache / md5[:2] / md5[2:]
            if not md5.endswith(".dir"):
                yield name, path, copy
            elif copy.is_file() and md5_of(copy) != md5.removesuffix(".dir"):
                yield name, copy, copy
            elif copy.is_file():
                for entry in json.loads(copy.read_bytes()):
                    yield name, path / entry["relpath"], cache / entry["md5"][:2] / entry["md5"][2:]


def damaged(root: Path) -> list[Damage]:
    """Return what does not match its hash; what is not there is left to DVC, which notices that.

    Raises InputError without a dvc.lock.
    """
    if not (root / "dvc.lock").is_file():
        raise InputError("dvc.lock: no such file; run `make repro`")
    stages = (YAML(typ="safe").load(root / "dvc.lock") or {}).get("stages", {})
    with Repo(str(root)) as repo:
        files = list(files_of(root, Path(repo.cache.local.path), stages))
    good: dict[str, Path] = {}  # MD5 -> a file that has it: outputs with equal bytes share their copy
    bad: dict[Path, tuple[str, str]] = {}
    for stage, path, copy in tqdm(files, desc="verify", unit="file", disable=None):
        md5 = f"{copy.parent.name}{copy.name}".removesuffix(".dir")
        for file in (path, copy):
            if file.is_file() and file not in bad and good.get(md5) != file:
                if md5_of(file) == md5:
                    good[md5] = file
                else:
                    bad[file] = stage, md5
    return [Damage(file, stage, good.get(md5)) for file, (stage, md5) in bad.items()]


def verify(root: Path, fix: bool = False) -> str:
    """Return a sentence if all is well, or what was put right; InputError that lists what is damaged."""
    found = damaged(root)
    if not found:
        return "Every output, and every copy of one in the cache, is as dvc.lock says."
    lines = [f"  {os.path.relpath(one.path, root)} ({one.stage})" for one in found]
    lost = sorted({one.stage for one in found if one.good is None})
    again = f"`make repro` has to run again: {', '.join(lost)}" if lost else "good copies are there"
    if not fix:
        raise InputError("\n".join([f"these files are damaged; {again}; say `make verify FIX=1`", *lines]))
    for path, _, good in found:
        path.unlink()
        if good is not None:
            with atomic(path) as temporary:
                shutil.copyfile(good, temporary)
    return "\n".join([f"Restored or removed; {again}.", *lines])


@click.command(cls=Command)
def main() -> None:
    click.echo(verify(Path.cwd(), os.environ.get("FIX") == "1"))


if __name__ == "__main__":
    main()
