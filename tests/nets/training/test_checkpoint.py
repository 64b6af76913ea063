from functools import partial

import pytest
import torch

import sslood.nets.training.checkpoint as module
from sslood.core.closure import import_closure
from sslood.nets.training.checkpoint import Checkpoint, fingerprint


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of three modules, of which `stages.run` imports `stages.room.used`."""
    room = tmp_path / "stages" / "room"
    room.mkdir(parents=True)
    (tmp_path / "stages" / "__init__.py").write_text("")
    (room / "__init__.py").write_text("")
    (tmp_path / "stages" / "run.py").write_text("import os\nfrom stages.room.used import f\n")
    (room / "used.py").write_text("def f(): return 1\n")
    (room / "other.py").write_text("x = 1\n")
    (tmp_path / "data").write_bytes(b"images")
    monkeypatch.setattr(module, "TOP", tmp_path)
    monkeypatch.setattr(module, "import_closure", partial(import_closure, top=tmp_path))
    return tmp_path


def test_fingerprint_changes_with_option_input_and_code_alone(repository):
    def now(lr=0.1):
        return fingerprint({"lr": lr, "widths": (1, 2)}, [repository / "data"], "stages.run")

    first = now()
    assert now() == first
    assert now(lr=0.2) != first
    (repository / "stages/room/other.py").write_text("x = 2\n")
    assert now() == first
    (repository / "stages/room/used.py").write_text("def f(): return 2\n")
    changed = now()
    assert changed != first
    (repository / "data").write_bytes(b"other images")
    assert now() not in (first, changed)


def test_closure_of_a_real_stage():
    names = {path.name for path in import_closure("stages.pretrain")}
    assert {"pretrain.py", "augment.py", "files.py", "build.py"} <= names
    assert not {"download.py", "simclr.py"} & names  # an objective is chosen by name
    assert "simclr.py" in {path.name for path in import_closure("sslood.nets.objectives.simclr")}


def test_save_load_delete(tmp_path):
    checkpoint = Checkpoint(tmp_path / "scratch", "run", "abc")
    assert checkpoint.load() is None
    checkpoint.save({"weights": torch.arange(3.0), "curves": [{"loss": 0.5}]})
    state = Checkpoint(tmp_path / "scratch", "run", "abc").load()
    assert torch.equal(state["weights"], torch.arange(3.0)) and state["curves"] == [{"loss": 0.5}]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["run.pt"]
    checkpoint.delete()
    checkpoint.delete()
    assert checkpoint.load() is None


def test_another_fingerprint_is_ignored_and_said(tmp_path, capsys):
    Checkpoint(tmp_path, "run", "abc").save({"a": 1})
    assert Checkpoint(tmp_path, "run", "abd").load() is None
    assert "other options, inputs or code; ignored" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_file_is_ignored_and_said(tmp_path, capsys, damage):
    checkpoint = Checkpoint(tmp_path, "run", "abc")
    checkpoint.save({"a": torch.zeros(1000)})
    whole = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert checkpoint.load() is None
    assert "not a readable checkpoint; ignored" in capsys.readouterr().err


def test_nothing_is_unpickled_that_could_run_code(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"fingerprint": "abc", "state": Trap()}, tmp_path / "run.pt")
    assert Checkpoint(tmp_path, "run", "abc").load() is None
    assert not (tmp_path / "sprung").exists()
    assert "ignored" in capsys.readouterr().err
