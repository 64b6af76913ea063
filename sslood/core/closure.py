"""The import closure of a module: which files of this repository run when it is imported.

Two things rest on it: the fingerprint of a checkpoint (a run goes on only under the code that began it) and
the code deps of dvc.yaml (`python -m tools.closure`).
"""

import ast
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]  # the folder that holds sslood/ and stages/
OURS = ("sslood", "stages")


def import_closure(*modules: str, top: Path = TOP) -> list[Path]:
    """Return the source files, sorted, that importing `modules` (dotted names) reads, their own included.

    Followed are absolute imports of the packages OURS, at any depth of the code. Importing a package means
    importing every module in it: that is how detectors are discovered by name. Other names are passed over.
    """
    files: set[Path] = set()
    waiting = list(modules)
    while waiting:
        for file in files_of(waiting.pop(), top):
            if file not in files:
                files.add(file)
                waiting.extend(_imports(file, top))
    return sorted(files)


def files_of(module: str, top: Path = TOP) -> list[Path]:
    """Return the file of a module, the files of a package, or nothing if `module` is neither."""
    base = top.joinpath(*module.split("."))
    if base.with_suffix(".py").is_file():
        return [base.with_suffix(".py")]
    return sorted(base.glob("[!_]*.py")) if (base / "__init__.py").is_file() else []


def _imports(file: Path, top: Path) -> set[str]:
    """Return the modules and packages of OURS that a source file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from package import module` imports that module, `from module import name` the module
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name for name in inner if files_of(name, top)} or {node.module}
    return {name for name in names if name.split(".")[0] in OURS}
