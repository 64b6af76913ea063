import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from sslood.core.errors import LeftOut
from sslood.core.files import load_tensors, read_metadata, save_tensors
from sslood.core.machine import machine
from sslood.core.seeding import numpy_stream
from sslood.core.splits import stratified_choice
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.data.images.streamed import StreamedSet
from sslood.nets.methods.classify import Classify, ClassifySettings, labelled, mirrored
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from stages.train import main
from tests.kit.small import call, options, write_encoder, write_params, write_sets
from tests.kit.training import SHARED

SECTION = {
    **SHARED, "labels": 100, "epochs": 4, "batch_size": 50, "lr": 0.1, "nesterov": True, "weight_decay": 5e-4,
    "schedule": "cosine", "warmup_epochs": 1, "label_smoothing": 0.0, "freeze": "none",
    "alternate": False,
}  # fmt: skip


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
    assert call(main, **{**run, "epochs": 12}) == 0
    assert "ID validation accuracy 0.9" in capsys.readouterr().out
    model, card = load_model(run["out"])
    metadata = card.metadata()
    assert metadata["name"] == "classifier_scratch" and metadata["objective"] == "classifier"
    assert metadata["head_classes"] == list(range(8)) and metadata["mean"] == [0.3]
    assert metadata["settings"]["init"] == "scratch" and metadata["settings"]["recipe"]["pad"] == 1
    rows = run["out_curves"].read_text().splitlines()
    assert rows[0] == "epoch,lr,loss,train_accuracy,validation_accuracy" and len(rows) == 13
    assert float(rows[-1].split(",")[-1]) > 0.9
    assert not list((run["out"].parent / "scratch").glob("*"))  # a finished run leaves no checkpoint


def test_the_test_split_is_never_read(run):
    tensors, metadata = load_tensors(run["id_set"])
    kept = {name: array.copy() for name, array in tensors.items() if not name.startswith("test.")}
    save_tensors(run["id_set"], kept, kind="set", metadata={k: v for k, v in metadata.items() if k != "kind"})
    assert call(main, **{**run, "epochs": 1}) == 0


def test_a_set_that_fits_no_memory_gives_the_same_classifier(run, monkeypatch):
    """Read from the file as it goes; of few labels the images of these alone."""
    written = []
    for limit in ("1", "0"):
        monkeypatch.setenv("SSLOOD_RESIDENT_GB", limit)
        assert call(main, **{**run, "labels": 20, "epochs": 2}) == 0
        written.append(run["out"].read_bytes())
    assert written[0] == written[1]


def test_a_frozen_backbone_comes_out_as_it_went_in(run):
    assert call(main, **{**run, "freeze": "backbone"}) == 0
    before, after = load_tensors(run["init_model"])[0], load_tensors(run["out"])[0]
    assert all((after[name] == before[name]).all() for name in before)


def test_the_precision_shapes_the_result_and_is_recorded(run):
    written = {}
    for precision in ("float64", "float32", "bf16"):
        assert call(main, **{**run, "epochs": 1, "precision": precision}) == 0
        tensors, metadata = load_tensors(run["out"])
        assert metadata["settings"]["precision"] == precision
        assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32", "int64"}
        written[precision] = tensors["head.weight"]
    assert np.abs(written["float64"] - written["float32"]).max() < 1e-3
    assert 1e-4 < np.abs(written["float64"] - written["bf16"]).max() < 0.2


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


def percent(labels):
    return ClassifySettings(**{**SECTION, "labels": labels})


def test_few_labels_are_the_same_images_for_every_start_and_balanced(run):
    tensors, _ = load_tensors(run["id_set"])
    data = ResidentSet(tensors["train.images"], tensors["train.labels"], "cpu")
    few, _ = labelled(data, percent(10), seed=0)
    assert len(few) == 60
    counts, all_counts = (np.bincount(labels) for labels in (few.labels, data.labels))
    assert np.abs(counts - 0.1 * all_counts).max() < 1
    rows = stratified_choice(tensors["train.labels"], 60, numpy_stream(0, "labels", "0.1", 0))
    assert (few.images.numpy() == tensors["train.images"][rows]).all()  # the probe's first draw
    rows = stratified_choice(tensors["train.labels"], 13, numpy_stream(0, "labels", "0.022", 0))
    assert torch.equal(labelled(data, percent(2.2), seed=0)[0].images, data.images[rows])
    assert not torch.equal(few.images, labelled(data, percent(10), seed=1)[0].images)
    assert labelled(data, percent(100), seed=0)[0] is data
    assert labelled(data, percent(2), seed=0)[1].batch_size == 12


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
        ({"warmup_epochs": 5}, "warmup_epochs is 5, but the run has 4 epochs; lower it"),
        ({"recipe": "params.yaml:nothing"}, "params.yaml"),
        ({"epochs": 0}, "train.epochs must be at least 1, found 0"),
        ({"label_smoothing": 2.0}, "train.label_smoothing must be at least 0 and below 1, found 2.0"),
        ({"labels": 0}, "train.labels must be above 0 and at most 100, found 0"),
        (
            {"lr": 1e20},
            "train classifier_scratch-0: loss became nan at step 2, in epoch 1; lower the",
        ),
    ],
)
def test_wrong_options_end_with_one_sentence(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not run["out"].exists()


def test_a_batch_holds_at_most_the_set(run, capsys):
    files = []
    for size in (600, 601):
        assert call(main, **{**run, "epochs": 1, "warmup_epochs": 0, "batch_size": size}) == 0
        files.append(load_tensors(run["out"])[0])
    assert all((files[0][name] == files[1][name]).all() for name in files[0])
    assert "batch_size is 601, but the set fills only 600" in capsys.readouterr().out


def test_few_labels_that_leave_a_class_out_leave_the_model_out(run):
    """The file holds the reason alone, and whoever reads it gets it."""
    assert call(main, **{**run, "labels": 0.5}) == 0
    with pytest.raises(
        LeftOut, match="0.5 % of 600 training images, which leaves 5 of 8 classes without one"
    ):
        load_tensors(run["out"], kind="model")
    assert run["out_curves"].read_text() == "epoch\n"
    assert call(main, **{**run, "init_model": run["out"], "out": run["out"].with_name("next")}) == 0
    with pytest.raises(LeftOut, match="which leaves 5 of 8 classes"):
        read_metadata(run["out"].with_name("next"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": "adma"}, "'adma' is not one of 'sgd', 'adamw', 'lars', 'muon'"),
        ({"schedule": "cosin"}, "'cosin' is not one of 'constant', 'cosine', 'linear', 'steps'"),
        ({"freeze": "all"}, "'all' is not one of 'none', 'backbone'"),
        ({"precision": "bf32"}, "'bf32' is not one of 'float64', 'float32', 'bf16'"),
    ],
)
def test_a_word_that_is_no_choice_lists_the_choices(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 2
    assert message in capsys.readouterr().err


def test_two_batches_of_25_accumulated_train_as_well_as_one_of_50(run):
    assert call(main, **{**run, "batch_size": 25, "accumulate": 2}) == 0
    assert float(run["out_curves"].read_text().splitlines()[-1].split(",")[-1]) > 0.8


def test_a_missing_option_names_itself(run, capsys):
    del run["lr"]
    assert call(main, **run) == 2
    assert "--lr" in capsys.readouterr().err


def test_an_encoder_of_another_profile_is_refused(run, capsys):
    write_encoder(run["init_model"], size=16)
    assert call(main, **run) == 1
    assert "another profile: run the stage `pretrain` again" in capsys.readouterr().err


@pytest.mark.parametrize(("init", "seed"), [("simclr", 0), ("scratch", 1)])
def test_a_start_that_another_model_was_copied_over_is_refused(run, init, seed, capsys):
    assert call(main, **{**run, "init": init, "seed": seed}) == 1
    said = f"scratch-0.safetensors: holds the model 'scratch' of seed 0, not {init!r} of seed {seed}; write"
    assert said in capsys.readouterr().err and not run["out"].exists()


def test_a_cut_set_file_is_refused(run, capsys):
    run["id_set"].write_bytes(run["id_set"].read_bytes()[:-1])
    assert call(main, **run) == 1
    assert "not a complete safetensors file" in capsys.readouterr().err
    assert read_metadata(run["init_model"])["name"] == "scratch"


TWELVE = torch.arange(48, dtype=torch.uint8).view(12, 1, 2, 2), torch.arange(12)


def alternating(data):
    with seeded(0):
        model = Model(build_backbone("resnet-8-4", channels=1), build_head(16, 12))
    return Classify(
        model, data, data, recipe=AugmentSettings(), preprocessing={"mean": [0.0], "std": [1 / 255]},
        label="toy", settings=ClassifySettings(**{**SECTION, "alternate": True}), seed=0,
        machine=machine("float32"),
    )  # fmt: skip


def test_alternating_images_are_mirrored_in_every_second_epoch():
    """Each shows both sides in two epochs, half of them start mirrored, in the order of the labels."""
    data = ResidentSet(*TWELVE, "cpu")
    task = alternating(data)
    shown = []
    for epoch in range(4):
        task.begin_epoch(epoch)
        for images, labels in task.batches(data.epoch_batches(0, epoch, 4)):
            plain = data.images[labels].float()
            sides = [
                [torch.allclose(one, side) for one, side in zip(images, sides, strict=True)]
                for sides in (plain, plain.flip(-1))
            ]
            assert all(a != b for a, b in zip(*sides, strict=True))
            shown += [(epoch, int(label), turned) for label, turned in zip(labels, sides[1], strict=True)]
    turned = {(epoch, label): side for epoch, label, side in shown}
    assert len(turned) == 48
    assert all(turned[epoch, i] == (turned[0, i] ^ (epoch % 2 == 1)) for epoch in range(4) for i in range(12))
    assert 0 < sum(turned[0, i] for i in range(12)) < 12
    assert mirrored(20_000, 0, 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(mirrored(100, 0, 0), mirrored(100, 1, 0))


def test_random_and_alternating_flips_exclude_each_other(run, tmp_path, capsys):
    path = write_params(tmp_path / "params.yaml")
    path.write_text(path.read_text().replace("classifier: {pad: 1}", "classifier: {flip: 0.5}"))
    assert call(main, **{**run, "alternate": True}) == 1
    assert "train: alternate mirrors every image in turn, and flip is 0.5" in capsys.readouterr().err


def test_alternating_images_of_a_streamed_set_are_read_ahead(monkeypatch):
    """By its own reader, which puts them on the device; those of a resident one are the same."""
    shown = []
    for data in (ResidentSet(*TWELVE, "cpu"), StreamedSet(*TWELVE, torch.device("cpu"), 2)):
        task = alternating(data)
        if isinstance(data, StreamedSet):
            monkeypatch.setattr(data, "_read", lambda index: [part[index] for part in TWELVE])
            monkeypatch.setattr(data, "images", range(12))  # what is not read ahead would stay on the host
        task.begin_epoch(1)
        shown.append(list(task.batches(iter(torch.arange(12).split(4)))))
    for one, other in zip(*shown, strict=True):
        assert all(map(torch.equal, one, other))
