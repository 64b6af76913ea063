import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from sslood.core.files import load_tensors, read_metadata, save_tensors
from sslood.core.seeding import numpy_stream
from sslood.core.splits import stratified_choice
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.classify import labelled
from sslood.nets.networks.files import load_model
from stages.train import main
from tests.kit.small import call, options, write_encoder, write_params, write_sets

SECTION = {
    "labels": 100,
    "epochs": 4,
    "batch_size": 50,
    "optimiser": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "label_smoothing": 0.0,
    "freeze": "none",
    "save_every": 1,
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Options of a run on real digits, in a folder of its own."""
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    sets = write_sets(tmp_path)
    return {
        "seed": 0,
        "id_set": sets["digits"],
        "init_model": write_encoder(tmp_path / "scratch-0.safetensors"),
        "name": "classifier_scratch",
        "recipe": f"{write_params(tmp_path / 'params.yaml')}:augment.classifier",
        "out": tmp_path / "out.safetensors",
        "out_curves": tmp_path / "curves.csv",
        **SECTION,
    }


def test_a_classifier_learns_digits_and_its_file_says_how(run, capsys):
    assert call(main, **{**run, "epochs": 8}) == 0
    assert "ID validation accuracy 0.9" in capsys.readouterr().out
    model, card = load_model(run["out"])
    metadata = card.metadata()
    assert metadata["name"] == "classifier_scratch" and metadata["objective"] == "classifier"
    assert metadata["head_classes"] == list(range(8)) and metadata["mean"] == [0.3]
    assert metadata["settings"]["init"] == "scratch" and metadata["settings"]["recipe"]["pad"] == 1
    rows = run["out_curves"].read_text().splitlines()
    assert rows[0] == "epoch,loss,train_accuracy,lr,validation_accuracy" and len(rows) == 9
    assert float(rows[-1].split(",")[-1]) > 0.9
    assert not list((run["out"].parent / "scratch").glob("*"))  # a finished run leaves no checkpoint


def test_the_test_split_is_never_read(run):
    tensors, metadata = load_tensors(run["id_set"])
    kept = {name: array.copy() for name, array in tensors.items() if not name.startswith("test.")}
    save_tensors(run["id_set"], kept, kind="set", metadata={k: v for k, v in metadata.items() if k != "kind"})
    assert call(main, **{**run, "epochs": 1}) == 0


def test_a_frozen_backbone_comes_out_as_it_went_in(run):
    assert call(main, **{**run, "freeze": "backbone"}) == 0
    before, after = load_tensors(run["init_model"])[0], load_tensors(run["out"])[0]
    assert all((after[name] == before[name]).all() for name in before)


def test_a_large_network_trains_in_bf16_where_the_cpu_has_units_for_it(run, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    short = {**run, "epochs": 1}
    assert call(main, **short) == 0
    small = run["out"].read_bytes()
    monkeypatch.setattr("sslood.core.machine.LARGE", 1000)
    assert call(main, **short) == 0
    large = run["out"].read_bytes()
    monkeypatch.setenv("SSLOOD_PRECISION", "bf16")
    assert call(main, **short) == 0
    assert small != large == run["out"].read_bytes()


def test_killed_and_run_again_gives_the_same_bytes(run, tmp_path):
    long = {**run, "epochs": 12}
    assert call(main, **long) == 0
    whole = run["out"].read_bytes(), run["out_curves"].read_bytes()
    run["out"].unlink()
    environment = {**os.environ, "SSLOOD_SCRATCH": str(tmp_path / "scratch"), "SSLOOD_THREADS": "1"}
    command = [sys.executable, "-m", "stages.train", *options(**long)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "scratch" / "train-classifier_scratch-0.pt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not run["out"].exists()
    assert call(main, **long) == 0
    assert (run["out"].read_bytes(), run["out_curves"].read_bytes()) == whole


def test_few_labels_are_the_same_images_for_every_start_and_balanced(run):
    tensors, _ = load_tensors(run["id_set"])
    data = ResidentSet(tensors["train.images"], tensors["train.labels"], "cpu")
    few = labelled(data, 10, seed=0)
    assert len(few) == 60
    counts, all_counts = (np.bincount(labels) for labels in (few.labels, data.labels))
    assert np.abs(counts - 0.1 * all_counts).max() < 1
    rows = stratified_choice(tensors["train.labels"], 60, numpy_stream(0, "labels", "0.1", 0))
    assert (few.images.numpy() == tensors["train.images"][rows]).all()  # the probe's first draw
    assert not torch.equal(few.images, labelled(data, 10, seed=1).images)
    assert labelled(data, 100, seed=0) is data


def test_a_classifier_of_few_labels_never_reads_the_others(run):
    few = {**run, "labels": 2, "epochs": 2, "warmup_epochs": 0}  # 12 images, fewer than batch_size
    assert call(main, **few) == 0
    first = load_tensors(run["out"])[0]
    tensors, metadata = load_tensors(run["id_set"])
    rows = stratified_choice(tensors["train.labels"], 12, numpy_stream(0, "labels", "0.02", 0))
    others = np.setdiff1d(np.arange(600), rows)
    tensors["train.images"] = tensors["train.images"].copy()
    tensors["train.images"][others] = 0
    del metadata["kind"]
    save_tensors(run["id_set"], tensors, kind="set", metadata=metadata)
    assert call(main, **few) == 0
    second, metadata = load_tensors(run["out"])
    assert all((first[name] == second[name]).all() for name in first)
    assert metadata["settings"]["labels"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 601}, "batch_size is 601, but the set has 600 images"),
        ({"optimiser": "adma"}, "unknown optimiser 'adma'; known: adamw, lars, sgd"),
        ({"schedule": "cosin"}, "must be one of constant, cosine"),
        ({"freeze": "all"}, "must be one of none, backbone"),
        ({"warmup_epochs": 5}, "warm-up"),
        ({"recipe": "params.yaml:nothing"}, "params.yaml"),
        ({"epochs": 0}, "epochs"),
        ({"label_smoothing": 2.0}, "label_smoothing"),
        ({"labels": 0}, "labels is 0; use a percentage above 0, at most 100"),
        ({"labels": 0.5}, "0.5 % of 600 training images, which leaves 5 of 8 classes without one; use at"),
    ],
)
def test_wrong_options_end_with_one_sentence(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not run["out"].exists()


def test_a_missing_option_names_itself(run, capsys):
    del run["lr"]
    assert call(main, **run) == 2
    assert "--lr" in capsys.readouterr().err


def test_an_encoder_of_another_profile_is_refused(run, capsys):
    write_encoder(run["init_model"], size=16)
    assert call(main, **run) == 1
    assert "another profile: run the stage `pretrain` again" in capsys.readouterr().err


def test_a_cut_set_file_is_refused(run, capsys):
    run["id_set"].write_bytes(run["id_set"].read_bytes()[:-1])
    assert call(main, **run) == 1
    assert "not a complete safetensors file" in capsys.readouterr().err
    assert read_metadata(run["init_model"])["name"] == "scratch"
