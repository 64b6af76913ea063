"""Remove what no stage declares any more: outs under data/, entries of dvc.lock, leftovers of killed stages.

    make tidy

DVC leaves the files of a removed seed, set or model behind, and a stage that depends on a folder would see
them. Only files whose content is in DVC's cache are removed, so nothing is lost: adding the name again
restores them without a run. data/detectors/ belongs to the user and is left alone.
"""

from collections.abc import Sequence
from pathlib import Path

import click
from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml
from ruamel.yaml import YAML

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.files import atomic, remove_leftovers
from tools.verify import md5_of


def orphans(root: Path) -> tuple[list[Path], list[str]]:
    """Return (files under data/ that no stage writes, stages in dvc.lock that dvc.yaml lacks)."""
    with Repo(str(root)) as repo:
        outs = [Path(out.fs_path) for out in repo.index.outs]
        names = {stage.addressing for stage in repo.index.stages}
    own = root / "data/detectors"
    files = [
        file
        for file in sorted((root / "data").rglob("*"))
        if file.is_file() and file.name != ".gitignore" and own not in file.parents
    ]
    unknown = [file for file in files if not any(file == out or out in file.parents for out in outs)]
    return unknown, [name for name in _lock(root).get("stages", {}) if name not in names]


def _lock(root: Path) -> dict:
    path = root / "dvc.lock"
    return (YAML(typ="safe").load(path) or {}) if path.is_file() else {}


def _cached(root: Path, files: Sequence[Path]) -> list[Path]:
    """Return those of `files` that hold what dvc.lock says of them, and whose content DVC's cache holds."""
    outs = (out for stage in _lock(root).get("stages", {}).values() for out in stage.get("outs", []))
    hashes = {root / out["path"]: out["md5"] for out in outs if "md5" in out}
    with Repo(str(root)) as repo:
        held = [file for file in files if file in hashes and repo.cache.local.exists(hashes[file])]
    return [file for file in held if md5_of(file) == hashes[file]]


def tidy(root: Path) -> str:
    """Remove orphans below `root` and return a sentence that says what was done.

    Raises InputError if dvc.yaml and params.yaml cannot be read together, or `root` is no git repository.
    """
    if not (root / ".git").exists():
        raise InputError(f"{root}: no git repository, which DVC needs; clone it, or run `git init` here")
    for top in ("data", "metrics", "report"):
        for folder in {part.parent for part in (root / top).rglob(".*.part")}:
            remove_leftovers(folder)
    try:
        files, names = orphans(root)
    except Exception as error:  # DVC raises many kinds; all say what is wrong with the two files
        raise InputError(f"dvc.yaml or params.yaml cannot be read: {error}") from None
    safe = _cached(root, files)
    for file in safe:
        file.unlink()
    for folder in sorted({file.parent for file in safe}, reverse=True):
        if folder != root / "data" and not any(folder.iterdir()):
            folder.rmdir()
    if names:
        _drop(root, names)
    kept = [file.relative_to(root).as_posix() for file in files if file not in safe]
    text = (
        f"Tidied: {len(safe)} file(s) and {len(names)} entries of dvc.lock that no stage declares any more."
    )
    if kept:
        text += (
            " Kept, since dvc.lock does not name their content or DVC's cache lacks it (`dvc checkout` "
            f"removes those that DVC made): {', '.join(kept)}."
        )
    return text


def _drop(root: Path, names: list[str]) -> None:
    """Take stages out of dvc.lock in DVC's own format, so that its next run changes nothing else."""
    path = root / "dvc.lock"
    lock = YAML().load(path)
    for name in names:
        del lock["stages"][name]
    with atomic(path) as temporary:
        dump_yaml(temporary, lock)


@click.command(cls=Command)
def main() -> None:
    """Remove outs and lock entries that no stage declares any more."""
    click.echo(tidy(Path.cwd()))


if __name__ == "__main__":
    main()
