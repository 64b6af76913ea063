"""Stages side by side leave what `dvc repro` leaves, whatever fails or is interrupted on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from dvc.repo import Repo

from sslood.core.errors import InputError
from tools.closure import ROOT
from tools.jobs import LAUNCH
from tools.parallel import free_of_others, main, settle

STAGES = {
    "z_slow": {  # waits for the other one, then for Ctrl-C; goes on from what it saved
        "cmd": "trap 'kill $!; sleep 0.2; echo saved > kept; exit 3' INT; [ -e kept ] || "
        "{ until [ -e met ]; do sleep 0.05; done; touch ready; sleep 60 & wait; }; cat in in > z",
        "deps": ["in"],
        "outs": ["z"],
    },
    "fails": {
        "cmd": 'touch met; [ -n "$LAUNCHED" ] || { echo reason; exit 1; }; cat in > f',
        "deps": ["in"],
        "outs": ["f"],
    },
    "last": {"cmd": "cat z f > l", "deps": ["z", "f"], "outs": ["l"]},
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A pipeline of three stages, in a folder that is no git repository."""
    folder = tmp_path / "toy"
    (folder / ".dvc").mkdir(parents=True)
    config = (ROOT / ".dvc/config").read_text().replace("[core]", "[core]\n    no_scm = true")
    (folder / ".dvc/config").write_text(config)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (folder / "params.yaml").write_text("{}\n")
    (folder / "in").write_text("word ")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(folder)
    return folder


def test_the_same_as_one_dvc_repro_after_ctrl_c_and_a_failure(toy, tmp_path, monkeypatch):
    shutil.copytree(toy, tmp_path / "sequential")
    command = [sys.executable, "-m", "tools.parallel", "-j", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "failed fails (" in said and line == "  reason\n":
                break
        while not Path("ready").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said += process.communicate()[0]
    # both ran at the same time: each waited for a file of the other
    assert process.returncode == 130 and "interrupted; run the same command again" in said, said
    assert Path("kept").read_text() == "saved\n"
    assert not any(json.loads(Path(".dvc/tmp/rwlock").read_text()).values())  # dvc ended in its own way

    monkeypatch.setenv("SSLOOD_LAUNCH", "env LAUNCHED='by us'")
    found = CliRunner().invoke(main, ["-j", "2"])
    assert found.exit_code == 0 and found.output.endswith("3 stages are up to date.\n"), found.output
    assert "start last\ndone last" in found.output
    assert {*json.loads(Path("scratch/needs.json").read_text())} == set(STAGES)

    monkeypatch.delenv("SSLOOD_LAUNCH")
    monkeypatch.setenv("LAUNCHED", "yes")
    monkeypatch.chdir(tmp_path / "sequential")
    Path("kept").touch()
    with Repo(".") as repo:
        repo.reproduce()
    for name in ("z", "f", "l", "dvc.lock"):
        assert (toy / name).read_bytes() == Path(name).read_bytes(), name


def test_a_command_behind_ssh_is_found_in_a_folder_with_spaces(tmp_path, monkeypatch):
    """ssh joins its words, and the shell at the other end splits them again."""
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin/ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    place = tmp_path / "a folder"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    for prefix in ("ssh host", str(ssh) + " host", "env"):
        monkeypatch.setenv("SSLOOD_LAUNCH", prefix)
        done = subprocess.run([LAUNCH, "-c", "pwd"], cwd=place, capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, str(place)), done.stderr


def test_the_lock_keeps_its_order_and_takes_what_is_new_by_the_plan(toy):
    """Entries come as stages end. One `dvc repro` goes through dvc.yaml, each after what it needs."""
    entry = {"cmd": "x", "deps": [], "outs": []}

    def settled(names: list[str], before: list[str]) -> list[str]:
        stages = {name: entry for name in names}
        Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
        settle(toy, before)
        return list(yaml.safe_load(Path("dvc.lock").read_text())["stages"])

    assert settled(["fails", "last", "z_slow"], []) == ["z_slow", "fails", "last"]
    assert settled(["last", "fails", "z_slow"], ["last"]) == ["last", "z_slow", "fails"]


def test_another_dvc_at_work_is_named(toy):
    Path(".dvc/tmp").mkdir()
    held = {"write": {"/x": {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps(held))
    with pytest.raises(InputError, match=f"another DVC is at work here .process {os.getpid()}: dvc repro.;"):
        free_of_others(toy)
    gone = {"pid": 2**22 + 1, "cmd": "dvc repro"}  # above the largest number that Linux gives
    Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": {"/x": gone}, "read": {"/y": [gone]}}))
    free_of_others(toy)
