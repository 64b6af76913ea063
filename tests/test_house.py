"""The rules of the house: which room may import which, and what adding a file runs again."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest

from sslood.core.closure import TOP, import_closure

ROOMS = sorted({file.parent.relative_to(TOP).as_posix() for file in (TOP / "sslood").rglob("[!_]*.py")})
PLUMBING = {"sslood/cli", "sslood/commands"}


def imported(file) -> set[str]:
    """Return the dotted names that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def rooms_imported(room: str) -> set[str]:
    """Return the top rooms (sslood/<name>) that the files of a folder import, its own left out."""
    files = (TOP / room).rglob("*.py")
    names = {name for file in files for name in imported(file) if name.startswith("sslood.")}
    tops = {"/".join(name.split(".")[:2]) for name in names}
    return tops - {"/".join(room.split("/")[:2])}


def packages_imported(room: str) -> set[str]:
    """Return the top-level packages that the files of a folder import."""
    return {name.split(".")[0] for file in (TOP / room).rglob("*.py") for name in imported(file)}


ALLOWED = {
    "sslood/core": set(),
    "sslood/cli": {"core"},
    "sslood/data": {"core"},
    "sslood/nets": {"core", "data"},
    "sslood/ood": {"core"},
    "sslood/views": {"core", "data", "nets", "ood"},
    "sslood/auditing": {"core", "data", "ood"},
    "sslood/report": {"core", "data", "ood"},
    "sslood/sweeps": {"core", "data", "nets", "ood"},
    "sslood/deploy": {"core", "data", "nets", "ood", "views", "auditing", "report"},
    "sslood/commands": {"cli", "core", "data", "deploy", "nets", "ood", "report"},
}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room):
    assert rooms_imported(room) <= {f"sslood/{name}" for name in ALLOWED[room]}


def test_every_room_has_its_rule():
    assert {"/".join(room.split("/")[:2]) for room in ROOMS} == set(ALLOWED)


def test_nothing_but_the_commands_imports_deploy():
    for room in {*ALLOWED, "stages"} - {"sslood/deploy", "sslood/commands"}:
        assert "sslood/deploy" not in rooms_imported(room), room
        assert "sslood/commands" not in rooms_imported(room), room


@pytest.mark.parametrize("room", sorted(set(ALLOWED) - PLUMBING))
def test_the_library_needs_neither_click_nor_dvc(room):
    assert not {"click", "dvc", "ruamel"} & packages_imported(room)


def test_detectors_can_be_imported_without_click_and_dvc():
    code = (
        "import sys, sslood.ood.posthoc.knn, sslood.ood.measures.metrics, sslood.deploy.scorer;"
        "assert not {'click', 'dvc'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=TOP).returncode == 0


def test_no_file_is_longer_than_300_lines():
    """A file that one cannot take in at once wants to be two."""
    files = [file for top in ("sslood", "stages", "studies", "tools") for file in (TOP / top).rglob("*.py")]
    assert not [str(file.relative_to(TOP)) for file in files if len(file.read_text().splitlines()) > 300]


def test_scripts_are_thin():
    """Parse, load, call, save: a script is one screen."""
    sizes = {file.name: len(file.read_text().splitlines()) for file in (TOP / "stages").glob("[!_]*.py")}
    assert max(sizes.values()) <= 80, sizes


def test_names_of_files_say_which_room_they_are_of():
    """No module is named like one of the standard library or like a drawer."""
    names = {file.stem for file in (TOP / "sslood").rglob("[!_]*.py")}
    assert not names & (set(sys.stdlib_module_names) | {"utils", "helpers", "misc", "common"})


def test_importing_a_package_means_all_of_its_modules(tmp_path):
    """Detectors are discovered by name, so their stage depends on each of them."""
    files = {file.stem for file in import_closure("stages.posthoc") if file.parent.name == "posthoc"}
    assert {"knn", "msp", "vim"} <= files


def spelt(requirement: str) -> str:
    """Return the name in a requirement as PyPI compares them."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_what_the_package_imports_comes_with_pip_install():
    """Of pyproject.toml or of what it names: an environment made by requirements.txt has more."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [entry for entries in project["optional-dependencies"].values() for entry in entries]
    declared = {spelt(entry) for entry in [*project["dependencies"], *extras]}
    brought = {spelt(entry) for name in declared for entry in requires(name) or () if "extra ==" not in entry}
    names = {name.split(".")[0] for file in (TOP / "sslood").rglob("*.py") for name in imported(file)}
    owners = packages_distributions()
    for name in names - {"sslood", *sys.stdlib_module_names}:
        assert {spelt(owner) for owner in owners[name]} & (declared | brought), f"{name} is not declared"
