"""The pipeline as its users run it, in scratch copies: cut down in size, nothing faked."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.closure import ROOT

CUT = {
    "sets": {
        "digits": {"role": "id"},
        "digits_heldout": {"role": "near"},
        "gaussian": {"role": "far"},
        "corruptions": {"role": "tuning"},
    },
    "data": {"limit": 160, "count": 60},
    "runs": {
        "seeds": [0],
        "objectives": ["scratch", "simclr"],
        "inits": ["scratch"],
        "energy_modes": ["head"],
        "architectures": ["wideresnet-10-1"],
    },
    "evaluate": {"models": ["simclr", "classifier_scratch"]},
    "pretrain": {"epochs": 2, "warmup_epochs": 1, "batch_size": 32},
    "train": {"epochs": 2, "batch_size": 32},
    "energy": {"epochs": 1, "batch_size": 32, "auxiliary_batch_size": 32},
    "leaveout": {"epochs": 1, "batch_size": 32, "folds": [0, 1]},
}


def change(folder: Path, changes: dict) -> None:
    """Put `changes` into params.yaml; sets are replaced whole."""
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for section, values in changes.items():
        if section == "sets":
            params[section] = values
        else:
            params[section].update(values)
    yaml.dump(params, folder / "params.yaml")


def copy(folder: Path) -> Path:
    """Make a scratch repository of what git would commit here."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith(("metrics/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "copy"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True, capture_output=True)
    return folder


def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": path,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc/site"),
    }


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["dvc", *arguments], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=570
    )


def ran(done: subprocess.CompletedProcess) -> list[str]:
    """Return the stages that a `dvc repro` ran; fail with its output if it failed."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return re.findall(r"Running stage '([^']+)'", done.stdout)


def digests(folder: Path) -> dict[str, str]:
    files = [
        f for top in ("data", "metrics", "report") for f in sorted((folder / top).rglob("*")) if f.is_file()
    ]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A copy in which the cut-down pipeline has run once."""
    folder = copy(tmp_path_factory.mktemp("pipeline"))
    change(folder, CUT)
    stages = ran(dvc(folder, "repro"))
    assert {stage.split("@")[0] for stage in stages} == {
        *("download", "pretrain", "train", "energy", "leaveout", "embed"),
        *("probe", "posthoc", "ssd", "ssdk", "ensemble", "summarize"),
    }
    return folder


def test_it_writes_metrics_tables_and_a_page(pipeline):
    values = json.loads((pipeline / "metrics/ood/simclr.ssd.json").read_text())
    assert set(values) == {"near_auroc", "near_fpr95_id", "far_auroc", "far_fpr95_id"}
    assert all(0 <= value <= 1 for value in values.values())
    assert "`classifier_scratch`" in (pipeline / "metrics/table.md").read_text()
    assert "</html>" in (pipeline / "report/index.html").read_text()
    shown = dvc(pipeline, "metrics", "show")
    assert "near_auroc" in shown.stdout, shown.stderr


def test_a_second_run_runs_nothing_and_the_status_is_clean(pipeline):
    assert ran(dvc(pipeline, "repro")) == []
    assert json.loads(dvc(pipeline, "status", "--json").stdout) == {}


def test_two_runs_give_the_same_bytes(pipeline, tmp_path):
    other = copy(tmp_path)
    change(other, CUT)
    ran(dvc(other, "repro"))
    assert digests(other) == digests(pipeline)


def test_editing_a_detector_runs_its_evaluation_only(pipeline):
    file = pipeline / "stages/ood/detectors/msp.py"
    before = file.read_text()
    try:
        file.write_text(before + "\n# touched\n")
        # the results are the same bytes, so not even the summary has to run
        assert ran(dvc(pipeline, "repro")) == ["posthoc@0"]
    finally:
        file.write_text(before)
        dvc(pipeline, "repro")


def test_adding_a_seed_runs_only_its_stages(pipeline):
    try:
        change(pipeline, {"runs": {"seeds": [0, 1]}})
        stages = ran(dvc(pipeline, "repro"))
        assert stages and all(re.search(r"[@-]1$", stage) or stage == "summarize" for stage in stages)
    finally:
        change(pipeline, {"runs": {"seeds": [0]}})
    # going back: the dropped seed is tidied away and everything else is up to date or in the cache
    tidied = subprocess.run(
        [sys.executable, "-m", "stages.tidy"],
        cwd=pipeline,
        env=environment(pipeline),
        capture_output=True,
        text=True,
    )
    assert tidied.returncode == 0, tidied.stderr
    assert set(ran(dvc(pipeline, "repro"))) <= {"summarize"}
    assert not list((pipeline / "data").rglob("*-1.*"))
    assert "-1:" not in (pipeline / "dvc.lock").read_text()


def test_an_experiment_changes_the_metrics_and_diff_shows_it(pipeline):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["add", "-A"], ["commit", "-q", "-m", "run"]):
        subprocess.run(["git", *identity, *command], cwd=pipeline, check=True, capture_output=True)
    done = dvc(pipeline, "exp", "run", "-S", "ssd.clusters=2", "--name", "two-clusters")
    assert "ssd@0" in ran(done)
    shown = dvc(pipeline, "metrics", "diff", "--md").stdout
    assert "metrics/ood/simclr.ssd.json" in shown and "near_auroc" in shown
    assert "knn" not in shown


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"epochs": "ten"}}, "'ten' is not a valid integer"),
        ({"train": {"epohcs": 3}}, "epohcs"),
        ({"runs": {"objectives": ["scratch", "simclrr"]}}, "simclrr"),
        ({"runs": {"architectures": ["vgg-16"]}}, "vgg-16"),
        ({"posthoc": {"detectors": ["msp", "mahalanobiss"]}}, "mahalanobiss"),
        ({"evaluate": {"models": ["simclr", "byol"]}}, "byol"),
        ({"sets": {**CUT["sets"], "svhnn": {"role": "far"}}}, "svhnn"),
    ],
)
def test_wrong_params_are_named_and_nothing_is_lost(pipeline, changes, says):
    before = (pipeline / "params.yaml").read_text()
    try:
        change(pipeline, changes)
        done = dvc(pipeline, "repro")
        assert done.returncode != 0
        assert says in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    finally:
        (pipeline / "params.yaml").write_text(before)
    ran(dvc(pipeline, "repro"))
    assert json.loads(dvc(pipeline, "status", "--json").stdout) == {}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_no_half_written_out_and_goes_on(pipeline, how):
    """Kill the stage in the middle of its training; the next run resumes and gives the same bytes."""
    out = pipeline / "data/models/simclr-0.safetensors"
    before = out.read_bytes()
    stage = next(s for s in _lock(pipeline) if s == "pretrain@simclr-0")
    command = _lock(pipeline)[stage]["cmd"].split()
    target = pipeline / "killed.safetensors"
    command[command.index("--out") + 1] = str(target)
    command[command.index("--out_curves") + 1] = str(pipeline / "killed.csv")
    command[0] = sys.executable
    process = subprocess.Popen(
        command, cwd=pipeline, env=environment(pipeline), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while (
        not list((pipeline / "scratch").rglob("*.pt"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not target.exists()
    assert not [f for f in pipeline.glob(".killed*")]
    done = subprocess.run(command, cwd=pipeline, env=environment(pipeline), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == before
    for file in (target, pipeline / "killed.csv"):
        file.unlink()


def _lock(folder: Path) -> dict:
    return YAML(typ="safe").load(folder / "dvc.lock")["stages"]
