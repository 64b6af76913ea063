"""The pipeline as its users run it, in scratch copies: cut down in size, nothing faked."""

import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.kit.walk import RUNS
from tools.closure import ROOT

CUT = {
    "sets": {
        "digits": {"role": "id", "source": "digits"},
        "digits_heldout": {"role": "near", "source": "digits", "derive": "heldout"},
        "gaussian": {"role": "far", "source": "gaussian"},
        "corruptions": {"role": "tuning", "source": "digits", "derive": "corruptions"},
    },
    "data": {"limit": 160, "count": 60},
    "runs": RUNS,
    "evaluate": {"models": ["simclr", "classifier_scratch"]},
    "pretrain": {"epochs": 2, "warmup_epochs": 1, "batch_size": 32},
    "train": {"epochs": 2, "batch_size": 32},
    "energy": {"epochs": 1, "batch_size": 32, "auxiliary_batch_size": 32},
    "leaveout": {"epochs": 1, "batch_size": 32, "folds": [0, 1]},
}

OF_ALL_SEEDS = {"summarize", "deep_ensemble@classifier_scratch"}


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
        *("download", "audit", "pretrain", "train", "energy", "leaveout", "embed"),
        *("probe", "posthoc", "ssd", "ssdk", "network", "deep_ensemble", "ensemble", "summarize"),
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
    file = pipeline / "sslood/ood/posthoc/msp.py"
    before = file.read_text()
    try:
        file.write_text(before + "\n# touched\n")
        # the results are the same bytes, so not even the summary has to run
        assert ran(dvc(pipeline, "repro")) == ["posthoc@0"]
    finally:
        file.write_text(before)
        dvc(pipeline, "repro")


def test_adding_a_seed_runs_only_its_stages(pipeline):
    stages, files = set(_lock(pipeline)), set(digests(pipeline))
    try:
        change(pipeline, {"runs": {"seeds": [0, 1]}})
        again = set(ran(dvc(pipeline, "repro")))
        assert again == set(_lock(pipeline)) - stages | OF_ALL_SEEDS
    finally:
        change(pipeline, {"runs": {"seeds": [0]}})
    # going back: the dropped seed is tidied away, and everything else is up to date or in the cache
    command = [sys.executable, "-m", "tools.tidy"]
    tidied = subprocess.run(
        command, cwd=pipeline, env=environment(pipeline), capture_output=True, text=True, check=True
    )
    assert "Kept" not in tidied.stdout
    assert set(ran(dvc(pipeline, "repro"))) <= OF_ALL_SEEDS
    assert set(_lock(pipeline)) == stages and set(digests(pipeline)) == files


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
        ({"train": {"epochs": "ten"}}, "params.yaml:train.epochs: must be of type int, found 'ten'"),
        ({"train": {"epohcs": 3}}, "epohcs"),
        ({"runs": {"objectives": ["scratch", "simclrr"]}}, "simclrr"),
        ({"runs": {"leaveout_backbones": ["vgg"]}}, "vgg"),
        ({"posthoc": {"detectors": ["msp", "mahalanobiss"]}}, "mahalanobiss"),
        ({"evaluate": {"models": ["simclr", "byol"]}}, "byol"),
        ({"sets": {**CUT["sets"], "svhnn": {"role": "far", "source": "svhnn"}}}, "svhnn"),
    ],
)
def test_wrong_params_are_named(pipeline, changes, says):
    before = (pipeline / "params.yaml").read_text()
    try:
        change(pipeline, changes)
        done = dvc(pipeline, "repro")
        assert done.returncode != 0
        assert says in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    finally:
        (pipeline / "params.yaml").write_text(before)


def test_a_model_of_another_profile_is_named(pipeline):
    """A model for 12-pixel images meets sets of 16 pixels: the run-cache of a profile gone wrong."""
    sets = pipeline / "sets16"
    command = (
        "python -m stages.download --id digits --id_item params.yaml:sets.digits --size 16 --channels 1 "
        "--validation 0.1 --count 20 --limit 60 --seed 0 --heldout 8 --heldout 9 --test 0.3"
    )
    for name in ("digits", "digits_heldout"):
        rest = f"--set {name} --item params.yaml:sets.{name} --out {sets}/{name}.safetensors"
        run(pipeline, f"{command} {rest}".split(), check=True)
    embed = _lock(pipeline)["embed@simclr-0"]["cmd"].replace("data/sets", str(sets))
    done = run(pipeline, shlex.split(embed.replace("data/embeddings/{seed}", str(pipeline / "none"))))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "simclr-0.safetensors" in done.stderr and "16" in done.stderr and "12" in done.stderr
    assert not (pipeline / "none/simclr.safetensors").exists()


# from the last stage to the first, so that what a stage needs is still there
EVALUATIONS = ("summarize", "ensemble@wideresnet-margin", "ssdk@0", "ssd@0", "posthoc@0", "probe@0")
TRAININGS = ("leaveout@wideresnet-margin-0", "energy@energy-head-classifier_scratch-0", "train@scratch-0")
KILLED = (*EVALUATIONS, "embed@simclr-0", *TRAININGS, "pretrain@simclr-0", "download@gaussian")


def test_dvc_killed_in_any_stage_leaves_nothing_half_written_and_goes_on(pipeline):
    """kill -9 of `dvc repro` and its stage as the out is being written, or a bit before."""
    ran(dvc(pipeline, "repro"))
    before = digests(pipeline)
    killed = 0
    for stage in KILLED:
        killed += kill_as_it_writes(pipeline, stage)
        left = digests(pipeline)
        whole = {name for name in left if not name.endswith(".part")}
        assert all(left[name] == before.get(name) for name in whole), stage
    assert killed >= len(KILLED) - 2 and digests(pipeline) != before
    ran(dvc(pipeline, "repro"))
    for stage in TRAININGS:  # not from the cache: from their checkpoints
        assert ran(dvc(pipeline, "repro", "--force", "--single-item", stage)) == [stage]
    run(pipeline, ["python", "-m", "tools.tidy"], check=True)  # killed writes leave temporary files
    assert digests(pipeline) == before
    assert ran(dvc(pipeline, "repro")) == []


def kill_as_it_writes(folder: Path, stage: str) -> bool:
    """Start `dvc repro` of one stage; kill its group when a temporary file appears. False if missed."""
    process = subprocess.Popen(
        ["dvc", "repro", "--force", "--single-item", stage],
        cwd=folder,
        env=environment(folder) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while b"Running stage" not in process.stdout.readline():
        assert process.poll() is None, f"{stage} did not start"
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        walks = (os.walk(folder / top) for top in ("data", "metrics", "report"))
        if any(name.endswith(".part") for walk in walks for *_, names in walk for name in names):
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode != 0


@pytest.mark.parametrize("stage", [TRAININGS[0], TRAININGS[1], "embed@simclr-0", "posthoc@0", "summarize"])
def test_a_disk_without_room_is_one_sentence(pipeline, tmp_path, stage):
    """No file may grow beyond 512 bytes: checkpoints, models, embeddings, scores and figures do not fit."""
    command = shlex.split(_lock(pipeline)[stage]["cmd"])
    for place, word in enumerate(command[:-1]):
        if word.startswith("--out"):
            command[place + 1] = str(tmp_path / command[place + 1])
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=pipeline,
        env=environment(pipeline) | {"SSLOOD_SCRATCH": str(tmp_path / "scratch")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr and "grew beyond the limit" in done.stderr
    assert all(file.stat().st_size < 512 for file in tmp_path.rglob("*.*") if file.is_file())


def test_after_all_these_failures_it_goes_on(pipeline):
    ran(dvc(pipeline, "repro"))
    assert json.loads(dvc(pipeline, "status", "--json").stdout) == {}
    assert not list((pipeline / "data").rglob("*.part"))


def run(folder: Path, command: list[str], check: bool = False) -> subprocess.CompletedProcess:
    command = [sys.executable, *command[1:]]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=check
    )


def long_pretraining(pipeline: Path, name: str) -> tuple[list[str], Path]:
    """Return the command of a pretraining of some seconds that saves every epoch, and its out."""
    command = shlex.split(_lock(pipeline)["pretrain@simclr-0"]["cmd"])
    changes = {
        "--epochs": "25",
        "--save_every": "1",
        "--out": f"{name}.safetensors",
        "--out_curves": f"{name}.csv",
    }
    for option, value in changes.items():
        if option in command:
            command[command.index(option) + 1] = value
        else:
            command += [option, value]  # after the section, and so instead of its value
    return [sys.executable, *command[1:]], pipeline / f"{name}.safetensors"


@pytest.fixture(scope="module")
def uninterrupted(pipeline) -> bytes:
    command, out = long_pretraining(pipeline, "whole")
    run(pipeline, command, check=True)
    return out.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_stage_leaves_nothing_half_written_and_goes_on(pipeline, uninterrupted, how):
    """Kill a training in its middle: no out, no temporary file; run again: the same bytes."""
    command, out = long_pretraining(pipeline, f"killed{how.value}")
    process = subprocess.Popen(
        command, cwd=pipeline, env=environment(pipeline), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list((pipeline / "scratch").rglob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    error = process.communicate(timeout=120)[1]
    assert process.returncode != 0 and not list(pipeline.glob(f"*killed{how.value}*"))
    if how != signal.SIGKILL:
        assert "run the same command again" in error and "Traceback" not in error
    done = run(pipeline, command)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == uninterrupted


def _lock(folder: Path) -> dict:
    return YAML(typ="safe").load(folder / "dvc.lock")["stages"]
