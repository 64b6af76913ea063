"""What the README and docs/ say is there: results, paths, commands, options, targets, settings."""

import importlib
import re
import shlex
import shutil
import tomllib

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from sslood.core.errors import InputError
from sslood.core.renamed import RENAMED, VARIABLES
from tests.kit.committed import committed
from tools import picture
from tools.closure import ROOT
from tools.readme import PICTURE, block, fold, graph

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    ]
}
README = PAGES["README.md"]
QUICKSTART = yaml.safe_load((ROOT / "profiles/quickstart.yaml").read_text(encoding="utf-8"))
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
DVC = {"repro", "metrics", "plots", "exp", "checkout", "status", "commit"}
OWN_PAGES = [name for name in PAGES if name != "benchmarks/README.md"]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the words of every command in code blocks and code spans that starts one of our programs."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for content in blocks for line in content.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`]+)`", without_blocks(text))
    found = []
    for line in [*lines, *(" ".join(span.split()) for span in spans)]:
        for part in line.removeprefix("$ ").split(" && "):
            part = re.sub(r"^([A-Z_]+=(\"[^\"]*\"|\S+) )+", "", part)  # variables before it
            part = re.sub(r"^sslood (?=\w)", "python -m sslood.commands.", part)
            if re.match(r"(python -m|make|dvc|pip install) ", part):
                found.append(shlex.split(part, comments=True))
    return found


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def known_setting(key: str) -> bool:
    content = QUICKSTART
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


# ---- results -------------------------------------------------------------------------------------


def test_the_table_of_the_readme_is_the_one_that_summarize_wrote():
    shown = committed("README.md").split("<!-- results -->\n")[1].split("<!-- end results -->")[0]
    assert shown.strip() == fold(committed("metrics/headline.md")).strip(), "run `make readme`"


def test_the_picture_shows_the_committed_results():
    drawn = [line for line in committed(PICTURE.as_posix()).splitlines() if 'class="n"' in line]
    assert drawn == picture.bars(picture.shares(committed("metrics/results.csv"))), "run `make readme`"


def test_the_picture_has_a_number_for_every_set_and_detector():
    shown = picture.shares(committed("metrics/results.csv"))
    assert set(shown) == {(name, bar[0]) for name, *_ in picture.ROWS[1:] for bar in picture.BARS}
    assert all(0 <= share <= 1 for share in shown.values())


def test_the_graph_is_that_of_the_quickstart(tmp_path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "profiles/quickstart.yaml", tmp_path / "params.yaml")
    (tmp_path / ".dvc").mkdir()
    config = (ROOT / ".dvc/config").read_text().replace("[core]", "[core]\n    no_scm = true")
    (tmp_path / ".dvc/config").write_text(config)
    shown = README.split("<!-- graph -->\n")[1].split("<!-- end graph -->")[0]
    assert shown.strip() == graph(tmp_path).strip(), "run `make readme`"


def test_markers_that_are_missing_are_named():
    with pytest.raises(InputError, match="<!-- results -->"):
        block("no markers", "results", "x")


# ---- shape ---------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 161


@pytest.mark.parametrize("page", OWN_PAGES)
def test_lines_are_narrow(page):
    wide = [line for line in PAGES[page].splitlines() if len(line) > 120]
    assert page != "README.md" or not wide
    assert all(line.startswith("|") for line in wide), wide


# ---- what pages point to -------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", without_blocks(PAGES[page])):
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", OWN_PAGES)
def test_paths_in_the_text_exist(page):
    """Code spans that look like a path of the repository, but for what a run writes or a reader names."""
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"data", "report", "scratch", ".dvc"}
    for span in re.findall(r"`([^`\s]+)`", without_blocks(PAGES[page])):
        if span.split("/")[0] in tops and "/" in span and not re.search(r"[<>…*]", span):
            assert (ROOT / span).exists(), span


def test_the_tree_of_folders_is_there():
    tree = PAGES["docs/design.md"].split("## What is where")[1].split("```")[1]
    for line in tree.strip().splitlines():
        for name in re.match(r"\s*([\w./, ]+?)\s{2,}", line)[1].split(","):
            name = name.strip()
            assert (ROOT / name).exists() or (ROOT / "sslood" / name).exists(), name
    rooms = {path.parent.name for path in (ROOT / "sslood").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))


# ---- commands ------------------------------------------------------------------------------------


def test_commands_are_found_behind_variables_and_by_the_installed_name():
    found = commands('```\nA="b c" D=e make test\nsslood fit --out x\n```\nand `sslood score --help`')
    modules = [["python", "-m", f"sslood.commands.{words}"] for words in ("fit", "score")]
    assert found == [["make", "test"], [*modules[0], "--out", "x"], [*modules[1], "--help"]]


@pytest.mark.parametrize("page", sorted({*PAGES} - {"CHANGELOG.md"}))  # it also names commands that are gone
def test_commands_can_be_typed(page):
    for words in commands(PAGES[page]):
        text = " ".join(words)
        if words[0] == "make":
            names = [word for word in words[1:] if "=" not in word]
            assert names and set(names) <= TARGETS, text
        elif words[0] == "dvc":
            assert words[1] in DVC, text
            check_dvc(words, text)
        elif words[0] == "pip":
            for name in [word for flag, word in zip(words, words[1:], strict=False) if flag == "-r"]:
                assert (ROOT / name).is_file(), text
        elif words[2] != "pytest":
            check_module(words, text)


def check_dvc(words: list[str], text: str) -> None:
    if words[1] == "repro":
        for name in [word for word in words[2:] if not word.startswith("-")]:
            assert name.split("@")[0] in STAGES, text
    for flag, word in zip(words, words[1:], strict=False):
        if flag == "-S":
            assert known_setting(word.partition("=")[0]), text


def check_module(words: list[str], text: str) -> None:
    if "<" in words[2] or "…" in words[2]:
        return
    module = importlib.import_module(words[2])
    command = getattr(module, "main", None)
    if isinstance(command, click.Command):
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        assert {word for word in words[3:] if word.startswith("--")} <= known, text


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(p for p in PAGES if p.startswith("docs/"))]
)
def test_settings_in_the_text_exist(page):
    """Code spans like `ssd.clusters`, whose first part is a section of the params."""
    for span in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:: [^`]*)?`", without_blocks(PAGES[page])):
        if span.split(".")[0] in QUICKSTART and not (ROOT / "sslood" / span.replace(".", "/")).exists():
            assert known_setting(span), span


# ---- nothing is left out -------------------------------------------------------------------------


def test_every_profile_is_in_the_table():
    named = set(re.findall(r"^\| `([\w-]+)` \|", PAGES["docs/profiles.md"], re.MULTILINE))
    assert {path.stem for path in (ROOT / "profiles").glob("*.yaml")} == named


def test_every_stage_is_in_the_table():
    table = PAGES["docs/design.md"].split("## The stages")[1].split("## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(STAGES)


def test_every_machine_setting_is_described():
    used = {
        name
        for path in [*(ROOT / "sslood").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
        for name in re.findall(r"SSLOOD_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    used -= set(VARIABLES)  # of earlier versions: named in messages only
    assert used == set(re.findall(r"^\| `(SSLOOD_[A-Z_]+)`", PAGES["docs/machine.md"], re.MULTILINE))


@pytest.mark.parametrize(
    "folder", ["ood/posthoc", "ood/network", "ood/stochastic", "nets/objectives", "nets/backbones"]
)
def test_every_method_has_a_reference(folder):
    text = PAGES["docs/references.md"]
    named = set(re.findall(r"`([\w…]+)`", text))
    starts = tuple(name.rstrip("…") for name in named if name.endswith("…"))
    for path in (ROOT / "sslood" / folder).glob("[!_]*.py"):
        assert path.stem in named or path.stem.startswith(starts), path.stem


def test_every_image_set_has_a_reference():
    no_paper = {"folder", "letters", "photos", "gaussian", "uniform", "rademacher"}
    named = set(re.findall(r"`([\w…]+)`", PAGES["docs/references.md"].split("## Image sets")[1]))
    starts = tuple(name.rstrip("…") for name in named if name.endswith("…"))
    ends = tuple(name.lstrip("…") for name in named if name.startswith("…"))
    for path in (ROOT / "sslood/data/sources").glob("[!_]*.py"):
        name = path.stem.removesuffix("_fixed")
        assert name in named | no_paper or name.startswith(starts) or name.endswith(ends), name


def test_rows_of_references_have_a_source():
    for line in PAGES["docs/references.md"].splitlines():
        if line.startswith("| ") and not line.startswith(("| file", "| name", "| what", "| set ")):
            _, title, authors, year, source = (cell.strip() for cell in line.strip("|").split("|"))
            assert title.startswith("–") or (authors and re.fullmatch(r"\d{4}", year) and source), line
            for text, address in re.findall(r"\[(arXiv:[^\]]+)\]\(([^)]+)\)", source):
                assert address == f"https://arxiv.org/abs/{text.removeprefix('arXiv:')}", line


def test_the_changelog_names_what_was_renamed():
    for name in [*RENAMED, *VARIABLES]:
        assert f"`{name}" in PAGES["CHANGELOG.md"], name


# ---- for contributors ----------------------------------------------------------------------------


def test_versions_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)[1].strip()
    assert f"v{pinned}" in [repo.get("rev") for repo in hooks if "ruff" in repo["repo"]]


def required(lines: list[str]) -> dict[str, SpecifierSet]:
    """Return {package: versions} of requirements; comments and other files that they include are left out."""
    names = [line.partition("#")[0].strip() for line in lines]
    found = [Requirement(name) for name in names if name and not name.startswith("-r")]
    return {one.name: one.specifier for one in found}


def test_each_extra_is_what_its_file_of_requirements_pins():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, entries in tomllib.loads(text)["project"]["optional-dependencies"].items():
        lines = (ROOT / f"requirements-{name}.txt").read_text(encoding="utf-8").splitlines()
        for line in [line for line in lines if line.startswith("-r")]:
            lines += (ROOT / line.split()[1]).read_text(encoding="utf-8").splitlines()
        pinned, ranges = required(lines), required(entries)
        assert pinned.keys() == ranges.keys(), name
        for package, versions in pinned.items():
            [exact] = versions
            assert exact.version in ranges[package], package


def test_the_hosted_workflow_runs_what_runs_here():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["ci"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert workflow["jobs"]["ci"]["strategy"]["matrix"]["python"][0] == "3.11"
    assert "make test" in (ROOT / ".ci/run").read_text() and "make repro" in (ROOT / ".ci/run").read_text()
