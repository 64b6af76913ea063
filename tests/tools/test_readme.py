"""README.md shows what was measured, and every path and command in it exists."""

import re
import subprocess

import pytest

from sslood.core.errors import InputError
from tools.closure import ROOT
from tools.readme import block, graph

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def between(name: str) -> str:
    return TEXT.split(f"<!-- {name} -->\n")[1].split(f"<!-- end {name} -->")[0]


def committed(path: str) -> str:
    """Return a file of the last commit, whatever a run has left in the working tree."""
    command = ["git", "show", f"HEAD:{path}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, encoding="utf-8").stdout


def test_the_table_is_the_one_that_summarize_wrote():
    block = committed("README.md").split("<!-- results -->\n")[1].split("<!-- end results -->")[0]
    assert block.strip() == committed("metrics/headline.md").strip()


def test_the_graph_is_the_one_of_dvc_yaml():
    assert between("graph").strip() == graph(ROOT).strip()


def test_paths_exist():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    tree = TEXT.split("## What is where")[1].split("```")[1]
    for line in tree.strip().splitlines():
        for name in re.match(r"\s*([\w./, ]+?)\s{2,}", line)[1].split(","):
            name = name.strip()
            assert (ROOT / name).exists() or (ROOT / "sslood" / name).exists(), name


def test_every_make_target_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", TEXT)) <= targets


def test_every_profile_stands_in_the_table():
    named = set(re.findall(r"^\| `([\w-]+)` \|", TEXT.split("## Profiles")[1], re.MULTILINE))
    assert {path.stem for path in (ROOT / "profiles").glob("*.yaml")} <= named


def test_every_machine_setting_is_described():
    used = {
        name
        for path in (ROOT / "sslood").rglob("*.py")
        for name in re.findall(r"SSLOOD_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert used == set(re.findall(r"`(SSLOOD_[A-Z_]+)`", TEXT))


def test_markers_that_are_missing_are_named():
    with pytest.raises(InputError, match="<!-- results -->"):
        block("no markers", "results", "x")
