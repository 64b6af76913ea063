"""Folders of one's own in the profile, without an edited line."""

import csv
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sslood.core.errors import InputError
from sslood.core.files import save_tensors
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import read_user_images
from tests.kit.walk import pictures
from tools import own
from tools.closure import ROOT
from tools.own import changed_sets, list_with_test, main, show


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the two profiles and three folders of pictures; what DVC would be asked to run."""
    (tmp_path / "profiles").mkdir()
    for name in ("own", "quickstart"):
        text = (ROOT / f"profiles/{name}.yaml").read_text()
        (tmp_path / f"profiles/{name}.yaml").write_text(text)
    for place, name in enumerate(("mine", "near", "later")):
        pictures(tmp_path / name, {"cat": 4, "dog": 3}, place)
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(own, "dvc", lambda *words: asked.append(words))
    monkeypatch.setattr(own, "tidy", lambda root: "Tidied.")
    return asked


def call(**variables: str) -> str:
    unset = dict.fromkeys(("IMAGES", "NEAR", "FAR", "TEST"))
    return CliRunner().invoke(main, [], env=unset | variables).output


def sets() -> dict:
    return yaml.safe_load(Path("params.yaml").read_text())["sets"]


def test_folders_stand_in_the_params_and_sets_without_one_do_not(here, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    said = call(IMAGES="~/mine", NEAR="near")
    assert "params.yaml now holds profiles/own.yaml with your folders." in said
    assert sets()["own"]["folder"] == str(tmp_path / "mine")
    assert sets()["own_near"]["folder"] == str(tmp_path / "near") and "own_far" not in sets()
    made = [f"download@{name}" for name in ("own", "own_near", "corruptions", "own_shifted")]
    assert here == [("repro", "--single-item", *made)]
    assert "now holds" not in call(IMAGES="mine", NEAR="near")  # the same


def test_own_settings_are_kept_before_others_are_put_in(here):
    call(IMAGES="mine")
    edited = Path("params.yaml").read_text().replace("size: 224", "size: 160")
    Path("params.yaml").write_text(edited)
    said = call(IMAGES="mine")
    [kept] = Path("scratch").glob("params-*.yaml")
    assert kept.read_text() == edited and f"`cp {kept} params.yaml` brings it back" in said
    assert "size: 224" in Path("params.yaml").read_text()


def test_pictures_kept_for_the_test_make_a_list(here, tmp_path):
    call(IMAGES="mine", TEST="later")
    assert sets()["own"]["folder"] == str(tmp_path / "scratch/own.csv")
    rows = list(csv.DictReader(Path("scratch/own.csv").read_text().splitlines()))
    assert len(rows) == 14 and {row["label"] for row in rows} == {"cat", "dog"}
    for row in rows:
        assert Path(row["path"]).parts[-3] == {"train": "mine", "test": "later"}[row["split"]]
    splits, _ = read_user_images("own", tmp_path / "scratch/own.csv", ROLES["id"])
    assert {split: len(found.labels) for split, found in splits.items()} == {"train": 7, "test": 7}


@pytest.mark.parametrize("name", ["caf\udce9.png", "a\rb.png", "100%25.png"])
def test_pictures_of_odd_names_stand_in_the_list_too(here, tmp_path, name):
    (tmp_path / "mine/cat/0.png").rename(tmp_path / "mine/cat" / name)
    (tmp_path / "mine/dog").rename(tmp_path / "mine/d\udcf6g")
    (tmp_path / "later/dog").rename(tmp_path / "later/d\udcf6g")
    said = call(IMAGES="mine", TEST="later")
    assert not said.startswith("Error"), said
    splits, _ = read_user_images("own", tmp_path / "scratch/own.csv", ROLES["id"])
    found = {str(path) for path in splits["train"].images}
    assert found == {str(path) for path in (tmp_path / "mine").rglob("*.png")}
    assert splits["train"].classes == ("cat", "d%F6g")


def test_a_folder_whose_name_no_params_can_hold_is_named(here, tmp_path):
    pictures(tmp_path / "caf\udce9", {"cat": 2})
    said = call(IMAGES="caf\udce9")
    assert said.startswith("Error: IMAGES=caf%E9: its name is not UTF-8; rename it"), said
    assert call(IMAGES="~nosuchuser/x").startswith("Error: IMAGES=~nosuchuser/x: ")


def test_pictures_that_changed_are_noticed(here, tmp_path):
    call(IMAGES="mine", NEAR="near")
    for name in ("own", "own_near", "corruptions"):
        whose = "mine" if name != "own_near" else "near"
        origin = read_user_images(name, tmp_path / whose, ROLES["near" if whose == "near" else "id"])[1]
        source = origin if name != "corruptions" else {"made from": "ID images", "id": origin}
        save_tensors(f"data/sets/{name}.safetensors", {}, kind="set", metadata={"source": source})
    assert changed_sets(Path("params.yaml")) == []
    (tmp_path / "mine/cat/0.png").unlink()
    assert changed_sets(Path("params.yaml")) == ["own", "corruptions"]
    said = call(IMAGES="mine", NEAR="near")
    assert "Pictures changed since own, corruptions was made: it is made again." in said
    assert here[-1] == ("repro", "--single-item", "--force", "download@own", "download@corruptions")


def test_what_is_wrong_is_said_by_the_name_of_the_variable(here, tmp_path):
    assert call() == "Error: name the folder of your normal pictures: make own IMAGES=/path/to/folder\n"
    assert "Error: IMAGES=mines: " in call(IMAGES="mines") and "did you mean" in call(IMAGES="mines")
    assert "Error: FAR=none: " in call(IMAGES="mine", FAR="none")
    assert not Path("params.yaml").exists()
    pictures(tmp_path / "strange", {"owl": 1})
    with pytest.raises(InputError, match="TEST=.*strange: class 'owl' is not in .*mine; give it the class"):
        list_with_test(tmp_path / "mine", tmp_path / "strange")
    pictures(tmp_path / "cut/train", {"cat": 2})
    pictures(tmp_path / "cut/test", {"cat": 2}, 1)
    with pytest.raises(InputError, match="IMAGES=.*cut: is cut into .* already; leave TEST out"):
        list_with_test(tmp_path / "cut", tmp_path / "later")


def test_dvc_gets_ctrl_c_in_its_own_way_and_its_status_is_ours(monkeypatch):
    import signal
    import sys

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SystemExit) as ended:
        own.dvc("repro")
    assert ended.value.code == 1 and signal.getsignal(signal.SIGINT) is before


def test_the_tables_of_the_last_run_are_shown():
    said = show(ROOT / "metrics")
    for name in ("headline", "decisions"):
        first = (ROOT / f"metrics/{name}.md").read_text().splitlines()[0]
        assert first in said
    assert "False alarms by ID class" not in said and said.endswith("report/index.html")
