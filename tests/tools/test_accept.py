"""`make accept` records refactored code, and refuses whatever is more than that."""

import os
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from sslood.core.errors import InputError
from tools.accept import accept, check, dvc_status

DVC_YAML = """\
stages:
  first:
    cmd: python stages/first.py ${value}
    deps: [stages/first.py, sslood/room, input.txt]
    params: [listed]
    outs: [first.txt]
  second:
    matrix: {seed: [0]}
    cmd: python stages/second.py
    deps: [stages/second.py, first.txt]
    outs: [second.txt]
"""
SCRIPT = "open('{0}.txt', 'w').write('{0}')\n"


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment(folder):
    folder_of_python = os.path.dirname(sys.executable)
    return {
        **os.environ,
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
        "PATH": f"{folder_of_python}:{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A DVC repository of two stages that have run and are committed."""
    folder = tmp_path_factory.mktemp("template") / "repository"
    for path, text in {
        "stages/first.py": SCRIPT.format("first"),
        "stages/second.py": SCRIPT.format("second"),
        "sslood/room/a.py": "A = 1\n",
        "input.txt": "input\n",
        "params.yaml": "value: 1\nlisted: 1\n",
        "dvc.yaml": DVC_YAML,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    run(folder, "git", "init", "-q")
    run(folder, "git", "config", "user.name", "tester")
    run(folder, "git", "config", "user.email", "tester@example.org")
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "repro", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "results")
    return folder


@pytest.fixture
def repository(template, tmp_path, monkeypatch):
    """A copy of it, in a folder with a space in its name."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return shutil.copytree(template, tmp_path / "with space", symlinks=True)


def lock(folder):
    return (folder / "dvc.lock").read_bytes()


def test_an_edited_room_is_accepted_and_nothing_runs_again(repository, capsys):
    before = YAML(typ="safe").load(repository / "dvc.lock")["stages"]
    (repository / "sslood/room/a.py").write_text("A = 1  # clearer\n")
    (repository / "sslood/room/b.py").write_text("B = 2\n")
    assert set(dvc_status(repository)) == {"first"}
    assert accept(repository, yes=True).startswith("Accepted the code of 1 stage(s).")
    shown = capsys.readouterr().out
    assert "first:" in shown and "second" not in shown
    assert "sslood/room/a.py | 2 +-" in shown and "sslood/room/b.py | not tracked by git" in shown
    assert "Accepting is honest only for edits that cannot change a result" in shown
    assert dvc_status(repository) == {}
    after = YAML(typ="safe").load(repository / "dvc.lock")["stages"]
    assert after["first"]["deps"] != before["first"]["deps"]
    assert after["first"]["outs"] == before["first"]["outs"] and after["second@0"] == before["second@0"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda top: (top / "input.txt").write_text("new\n"), "first: input input.txt is modified"),
        (lambda top: (top / "input.txt").unlink(), "first: input input.txt is deleted"),
        (lambda top: (top / "params.yaml").write_text("value: 1\nlisted: 2\n"), "listed is modified"),
        (lambda top: (top / "params.yaml").write_text("value: 2\nlisted: 1\n"), "first: changed command"),
        (lambda top: (top / "second.txt").unlink(), "second@0: output second.txt is deleted"),
        (lambda top: _replace(top / "second.txt", "mine"), "second@0: output second.txt is modified"),
        (lambda top: (top / "stages/second.py").unlink(), "second@0: input stages/second.py is deleted"),
    ],
)
def test_whatever_is_more_than_code_is_refused_and_named(repository, change, says):
    (repository / "sslood/room/a.py").write_text("A = 2\n")
    change(repository)
    before = lock(repository)
    with pytest.raises(InputError) as caught:
        accept(repository, yes=True)
    assert "more than code changed, so nothing is accepted" in str(caught.value)
    assert says in str(caught.value)
    assert lock(repository) == before


def _replace(path, text):
    path.unlink()  # DVC's outputs may be links into its cache
    path.write_text(text)


def test_a_stage_that_has_never_run_is_refused(repository):
    more = "  third:\n    cmd: python stages/first.py\n    deps: [stages/first.py]\n    outs: [third.txt]\n"
    (repository / "dvc.yaml").write_text(DVC_YAML + more)
    with pytest.raises(InputError, match=r"third: output third\.txt is deleted"):
        accept(repository, yes=True)


def test_named_stages_alone_are_looked_at(repository):
    (repository / "stages/second.py").write_text("# new\n" + SCRIPT.format("second"))
    (repository / "params.yaml").write_text("value: 1\nlisted: 2\n")
    assert "1 stage(s)" in accept(repository, ["second"], yes=True)
    assert set(dvc_status(repository)) == {"first"}


def test_without_a_change_there_is_nothing_to_do(repository):
    before = lock(repository)
    assert accept(repository) == "Nothing to accept: every stage is up to date."
    assert lock(repository) == before


def test_without_a_terminal_or_a_yes_nothing_is_accepted(repository):
    (repository / "sslood/room/a.py").write_text("A = 2\n")
    before = lock(repository)
    done = subprocess.run(
        [sys.executable, "-m", "tools.accept"],
        cwd=repository,
        env={**_environment(repository), "PYTHONPATH": os.getcwd()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "make accept YES=1" in done.stderr
    assert "Traceback" not in done.stderr and lock(repository) == before


def test_a_no_changes_nothing(repository, monkeypatch):
    (repository / "sslood/room/a.py").write_text("A = 2\n")
    before = lock(repository)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda text: False)
    with pytest.raises(InputError, match="nothing was accepted"):
        accept(repository)
    assert lock(repository) == before


def test_results_that_were_never_committed_are_named(repository):
    run(repository, "git", "rm", "-q", "--cached", "dvc.lock")
    run(repository, "git", "commit", "-q", "--amend", "-m", "no results")
    (repository / "sslood/room/a.py").write_text("A = 2\n")
    with pytest.raises(InputError, match=r"dvc\.lock has never been committed"):
        accept(repository, yes=True)


def test_a_broken_pipeline_is_named(repository):
    (repository / "dvc.yaml").write_text("stages: [")
    with pytest.raises(InputError, match="failed"):
        accept(repository, yes=True)


def test_a_file_of_the_user_s_networks_is_code():
    status = {"adopt@x-0": [{"changed deps": {"architectures": "modified"}}]}
    assert check(status).code == {"adopt@x-0": ["architectures"]}
    assert check({"a": ["always changed"]}).reasons == ["a: always changed"]
