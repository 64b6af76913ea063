"""Which code a stage declares in dvc.yaml: its script, and the rooms that its import closure touches.

    python -m tools.closure          print the code deps of every stage
    python -m tools.closure --write  put them into dvc.yaml

A room is a folder of modules. DVC runs a stage again when a dep changes, so deps that lack a room give stale
results. Coarse deps are cheap where it counts: what trains for hours touches few rooms, and they are stable.
Rooms in NO_DEPS cannot change a result. A module that is found by name is not in the closure of the script
that loads it: the stage names that one file by its item, as `${item...}.py`.
tests/test_pipeline_contract.py compares dvc.yaml with this.
"""

import re
import sys
from pathlib import Path

from ruamel.yaml import YAML

from sslood.core.closure import TOP as ROOT
from sslood.core.closure import import_closure

NO_DEPS = ("sslood/cli",)  # words and command-line plumbing


def code_deps(definition: dict, root: Path = ROOT) -> list[str]:
    """Return the code deps of a stage of dvc.yaml, sorted, but for the files that its items name.

    They are the script and the rooms of its closure, and the rooms that any file of the named kind needs.
    """
    script = script_of(definition["cmd"])
    named = [dep for dep in definition["deps"] if is_code(dep) and "${" in dep]
    folders = {Path(dep).parent.as_posix() for dep in named}
    files = import_closure(script, *(folder.replace("/", ".") for folder in folders), top=root)
    own = Path(*script.split(".")).with_suffix(".py")
    rooms = {file.relative_to(root).parent.as_posix() for file in files}
    rooms -= {own.parent.as_posix(), *folders, *NO_DEPS}
    inner = {room for room in rooms if any(other in rooms for other in map(str, Path(room).parents))}
    return sorted({own.as_posix(), *rooms} - inner)  # a folder as dep includes the rooms inside it


def script_of(cmd: str) -> str:
    """Return the module that a stage's command runs; ValueError if it runs none of ours."""
    match = re.match(r"python -m (stages\.\w+)", cmd.strip())
    if not match:
        raise ValueError(f"not a stage command: {cmd!r}")
    return match[1]


def is_code(dep: str) -> bool:
    """Whether a dep is a module or a room of the project."""
    return dep.split("/")[0] in ("sslood", "stages")


def main() -> None:
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=2, offset=0)
    content = yaml.load(ROOT / "dvc.yaml")
    for name, stage in content["stages"].items():
        definition = stage.get("do", stage)
        deps = code_deps(definition)
        print(name, *deps, sep="\n  ")
        definition["deps"] = deps + [dep for dep in definition["deps"] if "${" in dep or not is_code(dep)]
    if "--write" in sys.argv:
        yaml.dump(content, ROOT / "dvc.yaml")


if __name__ == "__main__":
    main()
