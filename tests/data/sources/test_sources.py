"""Sources are found by name: what an entry of `sets` names, and what adding a source re-runs."""

import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from sslood.core.errors import InputError
from sslood.core.settings import read_section
from sslood.data import sources
from sslood.data.sets.roles.roles import role_named
from sslood.data.sets.source import read_set_settings, source_named, source_names, with_sources
from stages.download import main
from tests.test_pipeline_contract import outside_git
from tools.closure import ROOT, code_deps

SOURCE = '''"""Ten grey pictures of nothing at all, for a test."""

import numpy as np

from sslood.data.sets.source import noise_source


def nothing(count, size, channels, rng):
    return np.zeros((count, channels, size, size), np.uint8)


SOURCE = noise_source(nothing, "nobody")
'''


@pytest.fixture
def added(monkeypatch, tmp_path):
    """A source `nothing` in a folder of its own that belongs to the package."""
    (tmp_path / "nothing.py").write_text(SOURCE)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    return "nothing"


def test_a_file_is_a_source(added):
    assert added in source_names()
    source = source_named(added, "sets.x")
    assert (source.name, source.description) == (added, "Ten grey pictures of nothing at all, for a test")


def stages(folder: Path) -> dict[str, tuple[str, set[str]]]:
    """Return {stage: (command, paths of its deps, and keys of its params)} of the pipeline in `folder`."""
    outside_git(folder)
    with Repo(str(folder)) as repo:
        return {
            stage.addressing.rpartition(":")[2]: (
                stage.cmd,
                {name for dep in stage.deps for name in (dep.def_path, *getattr(dep, "params", ()))},
            )
            for stage in repo.index.stages
        }


def test_adding_a_source_and_a_set_changes_no_stage_that_exists(tmp_path):
    """Code deps are rooms and one file per item, so a new file in the folder of sources is nobody's dep."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = stages(tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    added = text.replace("sets:\n", "sets:\n  nothing: {role: far, source: nothing}\n", 1)
    (tmp_path / "params.yaml").write_text(added)
    after = stages(tmp_path)
    assert after.keys() - before.keys() == {"download@nothing"}
    assert "sslood/data/sources/nothing.py" in after["download@nothing"][1]
    assert {name: after[name] for name in before} == before
    for _, deps in after.values():
        assert "sslood/data/sources" not in deps


def test_a_set_depends_on_the_file_of_its_source_alone(tmp_path):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    named = {
        stage: sorted(dep for dep in deps if dep.startswith("sslood/data/sources/"))
        for stage, (_, deps) in stages(tmp_path).items()
        if stage.startswith("download")
    }
    sets = yaml.safe_load((ROOT / "params.yaml").read_text())["sets"]
    for name, entry in sets.items():
        assert named[f"download@{name}"] == [f"sslood/data/sources/{entry['source']}.py"]


def test_rooms_of_any_source_are_deps(tmp_path):
    """A source may import what no other does: the closure follows every file in the folder."""
    for name in ("sslood", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    definition = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["download"]["do"]
    assert code_deps(definition, tmp_path) == code_deps(definition)
    (tmp_path / "sslood/data/sources/nothing.py").write_text(SOURCE)
    assert code_deps(definition, tmp_path) == code_deps(definition)
    (tmp_path / "sslood/data/sources/nothing.py").write_text("from sslood.ood.measures import metrics\n")
    assert set(code_deps(definition, tmp_path)) - set(code_deps(definition)) == {"sslood/ood/measures"}


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_names_known_sources_and_roles(profile):
    content = yaml.safe_load(profile.read_text())
    for name, entry in content.get("sets", {}).items():
        settings = read_set_settings(entry, f"sets.{name}")
        role_named(settings.role, name)
        source_named(settings.source, name)
        if settings.derive:
            assert settings.source == content["sets"][content["id"]]["source"]


def test_committed_commands_read_their_entries(monkeypatch):
    """What stands in the commands is what the script reads."""
    with Repo(str(ROOT)) as repo:
        stages = [stage for stage in repo.index.stages if stage.addressing.startswith("download")]
        commands = [stage.cmd.replace("$DVC_STAGE", stage.addressing) for stage in stages]
    assert len(commands) >= 8
    monkeypatch.chdir(ROOT)
    for cmd in commands:
        params = main.make_context("download", shlex.split(cmd)[3:]).params
        for item in ("item", "id_item"):
            path = params[item].replace("params.yaml", str(ROOT / "params.yaml"))
            read_set_settings(read_section(path), item)


def test_entries_from_before_sources_are_written_anew():
    old = {
        "digits": {"role": "id"}, "digits_heldout": {"role": "near"}, "mine": {"role": "far", "folder": "x"},
        "letters": {"role": "far"}, "odd": {"role": "far"}, "corruptions": {"role": "tuning"},
    }  # fmt: skip
    assert with_sources(old, "digits") == {
        "digits": {"role": "id", "source": "digits"},
        "digits_heldout": {"role": "near", "source": "digits", "derive": "heldout"},
        "mine": {"role": "far", "folder": "x", "source": "folder"},
        "letters": {"role": "far", "source": "letters"},
        "odd": {"role": "far", "source": "folder"},
        "corruptions": {"role": "tuning", "source": "digits", "derive": "corruptions"},
    }
    own = {"own": {"role": "id", "folder": "x"}, "corruptions": {"role": "tuning", "folder": "x"}}
    assert with_sources(own, "own")["corruptions"] == {
        **{"role": "tuning", "source": "folder", "derive": "corruptions"}
    }


def test_a_file_that_defines_no_source_is_a_bug(added, tmp_path):
    (tmp_path / "broken.py").write_text("SOURCE = 3\n")
    with pytest.raises(TypeError, match=r"broken\.SOURCE must be a Source"):
        source_named("broken", "sets.x")
    with pytest.raises(InputError, match=r"sets\.x: unknown source 'nothin' .did you mean 'nothing'"):
        source_named("nothin", "sets.x")
