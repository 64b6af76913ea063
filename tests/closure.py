"""Which files of the project a stage script runs: its import closure.

    python -m tests.closure          print the closure of every stage
    python -m tests.closure --write  put it into the deps of dvc.yaml

DVC re-runs a stage when a dep changes, so deps that lack a module give stale results and deps that
name too many re-run for nothing. tests/test_pipeline_contract.py holds dvc.yaml against this.
"""

import ast
import re
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent


def _imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports from `stages`, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "stages"}


def _file(name: str, root: Path) -> Path | None:
    path = root / (name.replace(".", "/") + ".py")
    return path if path.is_file() else None


def closure(module: str, root: Path = ROOT) -> set[str]:
    """Return the paths, relative to `root`, of `module` and all it imports from `stages`."""
    found: set[Path] = set()
    waiting = [_file(module, root)]
    while waiting:
        path = waiting.pop()
        if path is None or path in found:
            continue
        found.add(path)
        waiting += [_file(name, root) for name in _imports(path)]
    return {path.relative_to(root).as_posix() for path in found}


def folders(files: set[str], root: Path = ROOT) -> set[str]:
    """Return `files` with every folder of which they hold all modules, at any depth, named as one dep.

    DVC's cost grows with the number of deps, and a folder that is used whole says the same.
    """
    found = set(files)
    for folder in sorted(
        {parent for file in files for parent in Path(file).parents[:-2]}
    ):  # outer ones first
        modules = {path.relative_to(root).as_posix() for path in (root / folder).rglob("[!_]*.py")}
        if len(modules) > 1 and modules <= files and modules & found:
            found = found - modules | {folder.as_posix()}
    return found


def script_of(cmd: str) -> str:
    """Return the module that a stage's command runs."""
    match = re.match(r"python -m (stages\.\w+)", cmd.strip())
    if not match:
        raise ValueError(f"not a stage command: {cmd!r}")
    return match[1]


def is_code(dep: str) -> bool:
    """Whether a dep is a module or a folder of modules of the project."""
    return dep.startswith("stages/") and (dep.endswith(".py") or (ROOT / dep).is_dir())


def main() -> None:
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=2, offset=0)
    content = yaml.load(ROOT / "dvc.yaml")
    for name, stage in content["stages"].items():
        definition = stage.get("do", stage)
        files = sorted(folders(closure(script_of(definition["cmd"]))))
        kept = [dep for dep in definition["deps"] if "${" in dep or not is_code(dep)]
        print(name, *files, sep="\n  ")
        definition["deps"] = files + kept
    if "--write" in sys.argv:
        yaml.dump(content, ROOT / "dvc.yaml")


if __name__ == "__main__":
    main()
