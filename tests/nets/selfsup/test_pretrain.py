"""The stage as a user runs it: tiny runs on real digits in a process of their own."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits

from sslood.core.batches import normalise
from sslood.core.files import load_tensors, save_tensors
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model
from sslood.nets.selfsup.objective import TwoViews
from stages.pretrain import main
from tests.kit.registries import objective_class
from tests.kit.small import options as command_line
from tests.kit.training import PRETRAIN

VIEWS = {"crop_scale_min": 0.5, "jitter": 0.8, "brightness": 0.4, "second": {"solarise": 0.2}}
PARAMS = {
    "objectives": {
        "scratch": {},
        "simclr": {"projector": [16, 8], "temperature": 0.2, "lr": 0.1},
        "overrides": {"projector": [16, 8], "temperature": 0.2, "momentum": 1.5, "lr": 0.1},
        "views": {"projector": [16, 8], "temperature": 0.2, "lr": 0.1, "augment": VIEWS},
        "blind": {"projector": [16, 8], "temperature": 0.2, "lr": 0.1, "augment": {"fliip": 0.5}},
        "byol": {"projector": [16, 8], "predictor": [16, 8], "ema": 0.9},
        "bayes_h_vicreg": {
            "projector": [16], "invariance": 25.0, "variance": 25.0, "covariance": 1.0, "scale": 0.1,
            "samples": 2, "beta": 1e-4, "components": 2, "kl": "monte_carlo", "sigma": "diagonal",
        },
        "supce": {},
        "endless": {"projector": [16, 8], "temperature": float("inf")},
        "twice": {"augment": {"second": {"blur": 0.5}}},
        "vicreg": {"projector": [16], "invariance": 25.0, "variance": 25.0, "covariance": 1.0, "scale": 1},
    },
    "backbones": {"resnet": {"depth": 8, "width": 4}},
    "augment": {
        "simclr": VIEWS,
        "off": {},
        "wide": {"pad": 8},
    },
}  # fmt: skip
OPTIONS = {
    **PRETRAIN, "seed": 0, "backbone": "resnet", "epochs": 6, "batch_size": 64, "weight_decay": 1e-4,
    "schedule": "cosine", "warmup_epochs": 1, "knn_every": 3,
}  # fmt: skip


def write_set(folder):
    """Write params and a set of 1,000 digits of 8x8 into a folder, and two that are no ID sets."""
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1200), "test": slice(1200, 1797)}
    tensors = {f"{name}.images": images[part] for name, part in parts.items()}
    tensors |= {f"{name}.labels": labels[part] for name, part in parts.items()}
    metadata = {
        "name": "digits", "size": 8, "channels": 1, "classes": [str(i) for i in range(10)],
        "mean": [0.3], "std": [0.38], "resize": "none",
    }  # fmt: skip
    save_tensors(folder / "digits.safetensors", tensors, kind="set", metadata=metadata)
    tests = {name: array for name, array in tensors.items() if name.startswith("test")}
    save_tensors(folder / "untrained.safetensors", tests, kind="set", metadata=metadata)
    none = {name: array[:0] if name.startswith("validation") else array for name, array in tensors.items()}
    save_tensors(folder / "unwatched.safetensors", none, kind="set", metadata=metadata)
    none = {name: array[:0] if name.startswith("train") else array for name, array in tensors.items()}
    save_tensors(folder / "empty.safetensors", none, kind="set", metadata=metadata)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path)
    return tmp_path


def words(objective, out="out", section=None, recipe="simclr", **changes):
    options = {
        **OPTIONS, "objective": objective, "id_set": "digits.safetensors", "out": f"{out}.safetensors",
        "out_curves": f"{out}.csv", "constants": f"params.yaml:objectives.{section or objective}",
        "recipe": f"params.yaml:augment.{recipe}", "sizes": "params.yaml:backbones.resnet", **changes,
    }  # fmt: skip
    return command_line(**options)


def start(root, folder, objective, out="out", **changes):
    """Start the stage in a process of its own, from a copy of the code that nobody edits meanwhile."""
    for package in ("stages", "sslood"):
        if not (folder / package).exists():
            shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {"SSLOOD_DEVICE": "cpu", "SSLOOD_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "stages.pretrain", *words(objective, out, **changes)],
        cwd=folder, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture
def here(folder, monkeypatch):
    """Run the stage in this process, in the folder: returns (status, stdout, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    def run(capsys, objective, **changes):
        with pytest.raises(SystemExit) as stop:
            main(words(objective, **changes))
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    yield run
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def content(folder, out):
    return [(folder / f"{out}{suffix}").read_bytes() for suffix in (".safetensors", ".csv")]


def test_killed_at_a_random_moment_and_resumed_gives_equal_bytes(root, folder):
    status, said, err = finish(start(root, folder, "simclr", "whole", epochs=20))
    assert status == 0, err
    assert said.startswith("Wrote whole.safetensors: simclr after 20 epochs")
    saved = folder / "scratch" / "pretrain-simclr-0.pt"
    assert not saved.exists()
    killed = start(root, folder, "simclr", "resumed", epochs=20)
    wait_for(saved, killed)
    time.sleep(random.uniform(0, 0.2))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (folder / "resumed.safetensors").exists()
    status, said, err = finish(start(root, folder, "simclr", "resumed", epochs=20))
    assert status == 0 and "ignored" not in err, err
    assert content(folder, "resumed") == content(folder, "whole")


@pytest.mark.parametrize("name", ["byol", "bayes_h_vicreg"])
def test_a_teacher_and_draws_of_its_own_resume_exactly(folder, here, capsys, monkeypatch, name):
    """Stopped by an error in an epoch: what goes on has the teacher, and the draws, of the last one saved."""
    assert here(capsys, name, out="whole", epochs=3)[0] == 0
    kind = objective_class(name)
    own = kind.after_step

    def fails(self, backbone, step, steps):
        own(self, backbone, step, steps)
        if step == 40:  # in the third epoch of 15 steps
            raise KeyboardInterrupt

    monkeypatch.setattr(kind, "after_step", fails)
    assert here(capsys, name, out="resumed", epochs=3)[0] == 130
    assert (folder / "scratch" / f"pretrain-{name}-0.pt").exists()
    monkeypatch.setattr(kind, "after_step", own)
    status, _, err = here(capsys, name, out="resumed", epochs=3)
    assert status == 0 and "ignored" not in err, err
    assert content(folder, "resumed") == content(folder, "whole")


def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on(root, folder):
    process = start(root, folder, "simclr", epochs=100000, save_every=2)
    saved = folder / "scratch" / "pretrain-simclr-0.pt"
    wait_for(saved, process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 143 and "stopped by SIGTERM; run the same command again" in err
    assert len(torch.load(saved, weights_only=True)["state"]["curves"]) >= 2
    assert not list(folder.glob("*out*"))


def test_supce_writes_a_classifier(folder, here, capsys):
    assert here(capsys, "supce", batch_size=32)[0] == 0
    model, card = load_model(folder / "out.safetensors")
    metadata = card.metadata()
    assert metadata["head_classes"] == list(range(10)) and metadata["projector"] is None
    digits = load_digits()
    images = torch.from_numpy((digits.images[1000:1200] * 255 / 16).round().astype(np.uint8))[:, None]
    guesses = model(normalise(images, metadata["mean"], metadata["std"])).argmax(1).numpy()
    assert (guesses == digits.target[1000:1200]).mean() > 0.7


def test_model_and_curves(folder, here, capsys):
    status, said, err = here(capsys, "simclr")
    assert status == 0, err
    rows = list(csv.DictReader((folder / "out.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    names = "epoch lr loss alignment repulsion spread knn linear effective_rank"
    assert list(rows[0]) == names.split()
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert [bool(row["knn"]) for row in rows] == [False, False, True] * 2
    assert float(rows[-1]["knn"]) > 0.4  # chance is 0.1; the network is four wide
    model, card = load_model(folder / "out.safetensors")
    metadata = card.metadata()
    assert metadata["settings"]["lr"] == 0.1  # the objective's section overrides
    assert metadata["settings"]["augment"][1]["solarise"] == 0.2
    assert metadata["feature_dim"] == 16 and metadata["projector"] == [16, 8]
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    features = model.features(normalise(images, metadata["mean"], metadata["std"]))
    assert features.shape == (2, 16) and model.projector(features).shape == (2, 8)


def test_scratch_is_the_untrained_start_of_the_others(folder, here, capsys):
    assert here(capsys, "scratch", out="a", recipe="off", knn_every=0)[0] == 0
    a, card = load_model(folder / "a.safetensors")
    with seeded(0):
        fresh = build_backbone("resnet-8-4", channels=1)
    for key, value in fresh.state_dict().items():
        assert torch.equal(a.backbone.state_dict()[key], value)
    assert card.projector is None
    assert (folder / "a.csv").read_text().startswith("epoch,effective_rank\n1,")


def test_a_set_that_is_read_ahead_gives_the_bytes_of_one_on_the_device(folder, here, capsys, monkeypatch):
    assert here(capsys, "simclr", out="resident", epochs=2)[0] == 0
    monkeypatch.setenv("SSLOOD_RESIDENT_GB", "0")
    assert here(capsys, "simclr", out="streamed", epochs=2)[0] == 0
    assert content(folder, "streamed") == content(folder, "resident")


def test_views_of_its_own_replace_those_of_all(folder, here, capsys):
    assert here(capsys, "simclr", out="shared", epochs=2)[0] == 0
    assert here(capsys, "simclr", out="own", section="views", recipe="off", epochs=2)[0] == 0
    assert content(folder, "own") == content(folder, "shared")


def test_a_checkpoint_of_other_settings_is_ignored_and_said_so(folder, here, capsys):
    assert here(capsys, "simclr", out="other", epochs=1)[0] == 0
    (folder / "scratch").mkdir(exist_ok=True)
    torch.save({"fingerprint": "of another run", "state": {}}, folder / "scratch" / "pretrain-simclr-0.pt")
    status, _, err = here(capsys, "simclr", epochs=1)
    assert status == 0 and "belongs to other options, inputs or code; ignored, starting from the beg" in err
    assert content(folder, "out") == content(folder, "other")


WRONG = [
    ({"objective": "simcrl"}, "unknown objective 'simcrl'; known: barlow_twins, bayes_h"),
    (
        {"objective": "vicreg", "lr": 1e12, "warmup_epochs": 0},
        "at step 2, in epoch 1; lower the learning rate",
    ),
    ({"id_set": "letters.safetensors"}, "letters.safetensors: no such file"),
    ({"id_set": "untrained.safetensors"}, "untrained.safetensors: no tensor 'train.images'"),
    (
        {"id_set": "unwatched.safetensors"},
        "no validation images to measure accuracies on; raise data.validation",
    ),
    ({"id_set": "empty.safetensors", "objective": "scratch"}, "the set has no training images; run `down"),
    ({"accumulate": 0}, "pretrain.accumulate must be at least 1, found 0"),
    ({"accumulate": 16}, "batch_size 64 times accumulate 16 is 1024, but the set has 1000 images"),
    ({"batch_size": 1}, "pretrain.batch_size must be at least 2, found 1"),
    ({"objective": "vicreg", "lr": -0.1}, "pretrain.lr must be at least 0, found -0.1"),
    ({"momentum": 1.0}, "pretrain.momentum must be at least 0 and below 1, found 1.0"),
    ({"clip": -1}, "pretrain.clip must be at least 0, found -1.0"),
    ({"lr": "nan", "objective": "vicreg"}, "pretrain.lr must be at least 0, found nan"),
    (
        {"section": "overrides"},
        "pretrain.momentum must be at least 0 and below 1, found 1.5 (params.yaml:objectives.overrides sets "
        "lr, momentum)",
    ),
    ({"warmup_epochs": 7}, "pretrain: warmup_epochs is 7, but the run has 6 epochs; lower it"),
    ({"section": "endless"}, "objectives.endless.temperature must be above 0, found inf"),
    ({"recipe": "wide"}, "pad is 8, a shift that can leave nothing of images of 8 x 8 pixels; lower it"),
    (
        {"objective": "supce", "section": "twice"},
        "params.yaml:objectives.twice.augment.second: the objective sees one view of an image; take it out",
    ),
    ({"recipe": "scratch"}, "no section 'augment.scratch'"),
    (
        {"section": "blind"},
        "params.yaml:objectives.blind.augment: unknown key 'fliip' (did you mean 'flip'?)",
    ),
]


@pytest.mark.parametrize("changes, message", WRONG)
def test_bad_input_is_one_sentence_and_leaves_nothing(folder, here, capsys, changes, message):
    status, _, err = here(capsys, **{"objective": "simclr", **changes})
    assert status == 1 and message in err, err
    assert not list(folder.glob("*out*"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"optimiser": "adam"}, "'--optimiser': 'adam' is not one of 'sgd', 'adamw', 'lars', 'muon'"),
        ({"schedule": "cosin"}, "'--schedule': 'cosin' is not one of 'constant', 'cosine', 'steps'"),
        ({"precision": "fp32"}, "'--precision': 'fp32' is not one of 'float64', 'float32', 'bf16'"),
        ({"keep": "best"}, "--keep"),
    ],
)
def test_a_wrong_option_names_the_params(folder, here, capsys, changes, message):
    status, _, err = here(capsys, "simclr", **changes)
    assert status == 2 and message in err and "options come from the stage's section in params.yaml" in err


@pytest.mark.parametrize("precision", ["float64", "bf16"])
def test_every_precision_trains_and_is_written_as_float32(folder, here, capsys, precision):
    assert here(capsys, "simclr", epochs=3, precision=precision)[0] == 0
    tensors, metadata = load_tensors(folder / "out.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32", "int64"}
    assert metadata["settings"]["precision"] == precision
    assert float((folder / "out.csv").read_text().splitlines()[-1].split(",")[6]) > 0.4  # kNN; chance is 0.1


def test_a_gpu_that_is_not_there_is_not_replaced(here, capsys, monkeypatch):
    monkeypatch.setenv("SSLOOD_DEVICE", "cuda:99")
    status, _, err = here(capsys, "simclr")
    assert status == 1 and "SSLOOD_DEVICE asks for cuda:99, but torch sees" in err


def test_used_up_memory_proposes_batch_and_accumulation(folder, here, capsys, monkeypatch):
    def full(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TwoViews, "forward", full)
    status, _, err = here(capsys, "simclr")
    assert status == 1 and "out of memory; use a smaller batch_size, and a larger `accumulate` to keep" in err
    assert not list(folder.glob("*out*"))
