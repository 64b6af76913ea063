import subprocess
import sys

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from sslood.core.files import load_json, load_tensors, save_tensors
from sslood.core.seeding import numpy_stream
from sslood.core.splits import stratified_choice
from stages.probe import main
from tests.kit.small import call, digit_images, options


@pytest.fixture
def run(tmp_path):
    """Embeddings whose features are the pixels of real digits, of one model with a head and one without."""
    images, labels = digit_images()
    x = images.reshape(len(images), -1).astype(np.float32) / 255
    cuts = {"train": slice(0, 500), "validation": slice(500, 600), "test": slice(600, 800)}
    tensors = {}
    for split, rows in cuts.items():
        logits = np.eye(10, dtype=np.float32)[labels[rows]] * 3
        tensors |= {f"digits.{split}.features": x[rows], f"digits.{split}.labels": labels[rows]}
        tensors |= {f"digits.{split}.logits": logits}
    for name, head in (("encoder", None), ("classifier", list(range(10)))):
        metadata = {"model": name, "seed": 0, "id": "digits", "classes": [str(c) for c in range(10)]}
        metadata |= {"model_metadata": {"head_classes": head}, "sets": {"digits": {"role": "id"}}}
        if name == "classifier":  # as if the digits were a second set
            tensors |= {k.replace("digits", "more"): v for k, v in tensors.items() if k.startswith("digits")}
            metadata["sets"]["more"] = {"role": "transfer"}
        save_tensors(tmp_path / f"{name}.safetensors", tensors, kind="embeddings", metadata=metadata)
    return {
        "embeddings": tmp_path,
        "models": ["encoder", "classifier"],
        "seed": 0,
        "knn.k": [5, 20],
        "knn.temperature": 0.07,
        "linear.l2": [1e-3, 1e-2],
        "linear.shares": [0.02, 0.2],
        "out": tmp_path / "probe.json",
    }


def test_a_probe_of_some_images_is_that_of_a_set_that_holds_no_others(run, tmp_path):
    """150 of 500, each class in proportion; few labels are still drawn from all."""
    run |= {"models": ["encoder"], "linear.l2": [1e-2], "linear.shares": [0.2]}
    call(main, **run)
    whole = load_json(run["out"])["models"]["encoder"]
    assert call(main, **run, images=150) == 0
    found = load_json(run["out"])["models"]["encoder"]
    assert found["linear_0.2"] == whole["linear_0.2"] and found["knn"] != whole["knn"]
    arrays, metadata = load_tensors(tmp_path / "encoder.safetensors")
    labels = arrays["digits.train.labels"]
    rows = stratified_choice(labels, 150, numpy_stream(0, "probe", 150))
    counts = np.bincount(labels[rows], minlength=10), np.bincount(labels, minlength=10)
    assert np.abs(counts[0] - 0.3 * counts[1]).max() < 1
    arrays |= {
        f"digits.train.{part}": arrays[f"digits.train.{part}"][rows] for part in ("features", "labels")
    }
    save_tensors(tmp_path / "encoder.safetensors", arrays, kind="embeddings", metadata=metadata)
    assert call(main, **run) == 0
    alone = load_json(run["out"])["models"]["encoder"]
    assert (alone["knn"], alone["linear"]) == (found["knn"], found["linear"])


def test_images_that_are_fewer_than_every_k_leave_the_neighbours_out(run):
    run |= {"models": ["encoder"], "knn.k": [20, 50]}
    assert call(main, **run, images=15) == 0
    content = load_json(run["out"])
    assert "knn" not in content["models"]["encoder"] and "linear" in content["models"]["encoder"]
    [left] = content["left_out"]
    assert left["model"] == "encoder" and "needs 20 train images, there are 15" in left["reason"]


def test_probe_writes_what_the_contract_says(run, capsys):
    assert call(main, **run) == 0
    assert "best nearest-neighbour accuracy 0.9" in capsys.readouterr().out
    content = load_json(run["out"])
    assert set(content) == {"models", "chosen"} and set(content["models"]) == {"encoder", "classifier"}
    encoder, classifier = content["models"]["encoder"], content["models"]["classifier"]
    probes = {"knn", "linear", "linear_0.02", "linear_0.2"}
    assert set(encoder) == probes and set(classifier) == probes | {"head", "transfer_more"}
    assert classifier["transfer_more"] == classifier["linear"]
    few, more = encoder["linear_0.02"], encoder["linear_0.2"]
    assert few["labels"] == 10 and more["labels"] == 100 and few["draws"] == 5
    assert few["accuracy"] < more["accuracy"] < encoder["linear"]["accuracy"]
    assert set(few) == {"labels", "draws", "accuracy", "accuracy_top5", "ece", "validation_accuracy"}
    assert set(encoder["knn"]) == {"accuracy", "accuracy_top5", "k", "temperature", "validation_accuracy"}
    assert set(encoder["linear"]) == {"accuracy", "accuracy_top5", "ece", "l2", "validation_accuracy"}
    assert classifier["head"]["accuracy"] == 1.0
    sure = np.exp(3) / (np.exp(3) + 9)
    assert classifier["head"]["ece"] == pytest.approx(1 - sure, abs=1e-6)
    assert content["chosen"]["encoder"] == {
        "knn.k": encoder["knn"]["k"],
        "linear.l2": encoder["linear"]["l2"],
    }


def test_accuracy_on_the_id_classes_under_shift(run, tmp_path):
    """Half of the test images with noise, one without a label; and a set without any label."""
    tensors, metadata = load_tensors(tmp_path / "classifier.safetensors")
    noise = np.random.default_rng(0).normal(size=(100, tensors["digits.test.features"].shape[1]))
    part = {key: np.array(tensors[f"digits.test.{key}"][:100]) for key in ("features", "logits", "labels")}
    part["features"] += 0.4 * noise.astype(np.float32)
    part["logits"][:30] = np.roll(part["logits"][:30], 1, axis=1)
    part["labels"][99] = -1
    tensors = dict(tensors) | {f"dusk.test.{key}": array for key, array in part.items()}
    tensors |= {f"flat.test.{key}": array for key, array in part.items()} | {
        "flat.test.labels": np.full(100, -1)
    }
    metadata["sets"] |= {name: {"role": "shifted", "is_shifted": True} for name in ("dusk", "flat")}
    save_tensors(tmp_path / "classifier.safetensors", tensors, kind="embeddings", metadata=metadata)
    assert call(main, **{**run, "models": ["classifier"]}) == 0
    content = load_json(run["out"])
    found = content["models"]["classifier"]
    assert found["head_on_dusk"]["accuracy"] == pytest.approx(69 / 99, abs=1e-6)
    bank, labels = (tensors[f"digits.train.{part}"].astype(float) for part in ("features", "labels"))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (part["features"][:99], bank)]
    votes = KNeighborsClassifier(found["knn"]["k"], weights=lambda d: np.exp((1 - d**2 / 2) / 0.07))
    expected = votes.fit(unit[1], labels).score(unit[0], part["labels"][:99])
    assert found["knn_on_dusk"]["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert expected < found["knn"]["accuracy"]
    reasons = {row["detector"]: row["reason"] for row in content["left_out"]}
    assert set(reasons) == {"accuracy knn_on_flat", "accuracy head_on_flat"}
    assert reasons["accuracy head_on_flat"] == "needs 1 labelled class in test, there are 0"


def test_probe_runs_as_a_script_without_torch(run):
    code = "import sys, stages.probe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    finished = subprocess.run(
        [sys.executable, "-m", "stages.probe", *options(**run)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    first = run["out"].read_bytes()
    assert call(main, **run) == 0
    assert run["out"].read_bytes() == first


def test_neighbours_that_there_are_not_are_passed_over_or_left_out(run):
    assert call(main, **{**run, "knn.k": [501, 5]}) == 0
    assert load_json(run["out"])["chosen"]["encoder"]["knn.k"] == 5
    assert call(main, **{**run, "knn.k": [501]}) == 0
    content = load_json(run["out"])
    assert "knn" not in content["models"]["encoder"] and "linear" in content["models"]["encoder"]
    assert content["left_out"][0] == {
        "model": "encoder", "detector": "accuracy knn", "set": "",
        "reason": "needs 501 train images, there are 500",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["nobody"]}, "nobody.safetensors: no such file"),
        ({"seed": 1}, "holds 'encoder' with seed 0, not 'encoder' with seed 1"),
        ({"linear.l2": [-1.0]}, "probe.linear.l2 must be at least 0, found -1.0"),
        ({"linear.shares": [0.0]}, "probe.linear.shares must be above 0 and at most 1, found 0.0"),
    ],
)
def test_wrong_input_ends_with_one_sentence(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not run["out"].exists()
