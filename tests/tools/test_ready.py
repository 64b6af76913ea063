"""What `make repro` does first: it checks the params, and puts files of DVC's right that a kill has cut."""

import subprocess

import pytest
from click.testing import CliRunner
from dvc.exceptions import DvcException
from dvc.repo import Repo

from sslood.core.errors import InputError
from sslood.core.renamed import RENAMED, VARIABLES, renamed
from sslood.core.settings import load_params
from stages import network, posthoc, pretrain, ssd
from tools.closure import ROOT
from tools.ready import main, mended

DVC_YAML = """\
stages:
  a:
    cmd: echo a > a.txt
    deps: [in.txt]
    outs: [a.txt]
"""
CUT = ["", "schema: '2.0'\nsta", "schema: '2.0'\nstages:\n  a:\n    deps", "\0\0\0"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC repository with one stage that has run and is committed."""
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "in.txt").write_text("in")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path.parent / "site"))
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "init", "-q"], check=True)
    with Repo.init() as repo:
        repo.reproduce()
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    return tmp_path


def repro() -> list[str]:
    """Return the stages that `dvc repro` runs."""
    with Repo() as repo:
        return [stage.addressing for stage in repo.reproduce()]


@pytest.mark.parametrize("left", CUT)
def test_a_cut_lock_is_put_back(project, left):
    before = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(left)
    said = list(mended(project))
    assert said == ["dvc.lock was cut off, probably by a kill: the committed one is back."]
    assert (project / "dvc.lock").read_text() == before and repro() == []


def test_a_cut_lock_that_no_commit_holds_is_made_anew_from_the_run_cache(project):
    before = (project / "dvc.lock").read_text()
    subprocess.run(["git", "rm", "-q", "--cached", "dvc.lock"], check=True)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "commit", "-qm", "y"], check=True)
    (project / "dvc.lock").write_text("")
    assert list(mended(project)) == ["dvc.lock was cut off, probably by a kill: DVC writes a new one."]
    repro()
    assert (project / "dvc.lock").read_text() == before


@pytest.mark.parametrize("left", ["", '{"read": {"a', "\0\0"])
def test_a_cut_rwlock_is_removed(project, left):
    held = project / ".dvc/tmp/rwlock"
    held.write_text(left)
    with pytest.raises(DvcException):
        repro()
    assert "rwlock was cut off" in "".join(mended(project))
    assert repro() == [] and list(mended(project)) == []


def test_whole_files_are_left_alone(project):
    before = (project / "dvc.lock").read_text()
    (project / ".dvc/tmp/rwlock").write_text('{"read": {}, "write": {}}')
    assert list(mended(project)) == [] and (project / "dvc.lock").read_text() == before
    (project / "dvc.lock").unlink()
    assert list(mended(project)) == []


def test_wrong_params_stop_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    text = (ROOT / "profiles/quickstart.yaml").read_text()
    (tmp_path / "params.yaml").write_text("architecture: resnet-8-16\n" + text)
    done = CliRunner().invoke(main, ["--params"])
    assert done.exit_code == 1
    assert done.output == f"Error: params.yaml: 'architecture' is gone: {RENAMED['architecture']}\n"


def test_make_repro_checks_before_it_runs():
    lines = (ROOT / "Makefile").read_text().split("\nrepro:")[1].split("\n\n")[0]
    assert lines.index("tools.ready") < lines.index("tools.parallel") < lines.index(",dvc repro)")


def test_an_old_variable_is_answered_with_what_to_write_now(monkeypatch):
    monkeypatch.setenv("SSLOOD_PRECISION", "bf16")
    done = CliRunner().invoke(main, ["--params"])
    assert done.exit_code == 1 and f"is gone: {VARIABLES['SSLOOD_PRECISION']}" in done.output


def test_no_old_name_is_a_key_of_the_current_params():
    content = load_params(ROOT / "params.yaml")
    keys = set(content)
    for section, value in content.items():
        keys |= {f"{section}.{name}" for name in (value if isinstance(value, dict) else ())}
    assert not [key for key in keys if renamed(key)]


@pytest.mark.parametrize(
    ("module", "option", "key"),
    [
        (posthoc, "--search", "posthoc.search"),
        (posthoc, "--no-search", "posthoc.search"),
        (network, "--odin.epsilons", "network.odin.epsilons"),
        (ssd, "--select", "ssd.select"),
        (pretrain, "--architecture", "architecture"),
    ],
)
def test_an_option_of_an_earlier_version_is_answered_with_its_new_name(module, option, key):
    result = CliRunner().invoke(module.main, [option, "1"])
    assert result.exit_code == 2 and f"{option} is gone: {RENAMED[key]} (" in result.output


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_params(tmp_path / "params.yaml")
