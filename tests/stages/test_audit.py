"""The stage `audit` on sets with planted artefacts, doubles and shared classes."""

import json
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from sslood.auditing.exclusions import excluded_classes
from sslood.auditing.roughness import artefact_scores
from sslood.core.files import load_json, load_tensors, save_tensors
from stages.audit import main
from tests.kit.small import call

PARAMS = """sets:
  cifar10: {role: id}
  stl10: {role: near}
  noise: {role: far}
  corruptions: {role: tuning}
"""


def patches(count, seed):
    """Return uint8 [count, 3, 16, 16]: patches of a photograph's lively lower half, none twice."""
    photograph = load_sample_images().images[0][200:]
    places = [(top, left) for top in range(0, 208, 16) for left in range(0, 624, 16)]
    chosen = np.random.default_rng(0).permutation(len(places))[seed * 100 :][:count]
    cut = [photograph[t : t + 16, x : x + 16] for t, x in (places[number] for number in chosen)]
    return np.stack(cut).transpose(0, 3, 1, 2)


def write(folder, name, classes, splits, **more):
    tensors = {}
    for split, (images, labels) in splits.items():
        tensors |= {f"{split}.images": images, f"{split}.labels": np.asarray(labels, np.int64)}
    save_tensors(
        folder / f"{name}.safetensors",
        tensors,
        kind="set",
        metadata={"name": name, "classes": classes, **more},
    )


@pytest.fixture
def run(tmp_path):
    """Write the sets; return a function that audits them and returns (exit status, tensors, metadata)."""
    train, validation, test, other, tuning = (patches(100, seed) for seed in range(5))
    test, other = test.copy(), other.copy()
    test[7] = train[3]  # exact, of ID train
    test[9] = (validation[5] * 0.8 + 30).astype(np.uint8)  # near, of ID validation
    other[0] = tuning[1]  # exact, of the tuning set
    other[4] = test[20][:, :, ::-1]  # mirrored, of ID test
    labels = np.arange(100) % 10
    stl10 = "airplane bird car cat deer dog horse monkey ship truck".split()
    cifar10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
    splits = {"train": (train, labels), "validation": (validation, labels), "test": (test, labels)}
    write(tmp_path, "cifar10", cifar10, splits)
    others = np.full(100, 7)
    others[30:40] = 1  # birds
    write(tmp_path, "stl10", stl10, {"test": (other, others)})
    noise = np.random.default_rng(1).integers(0, 256, (50, 3, 16, 16), np.uint8)
    write(tmp_path, "noise", [], {"test": (noise, np.full(50, -1))})
    tuned = {"train": (tuning, labels), "validation": (patches(60, 5), labels[:60])}
    write(tmp_path, "corruptions", ["jigsaw"], tuned)
    (tmp_path / "params.yaml").write_text(PARAMS)

    def audit(out="audit", **changes):
        options = {"id": "cifar10", "radius": 32, "correlation": 0.97, **changes}
        file = tmp_path / f"{out}.safetensors"
        options |= {"sets": f"{tmp_path}/params.yaml:sets", "folder": tmp_path}
        options |= {f"out_{name}": tmp_path / f"{name}.json" for name in ("disjoint", "outliers")}
        status = call(main, out=file, **options)
        return (status, *load_tensors(file, kind="audit")) if status == 0 else (status, {}, {})

    return audit


def test_planted_doubles_and_classes_are_left_out(run):
    status, tensors, metadata = run()
    assert status == 0
    assert metadata["references"] == [
        *("cifar10.train", "cifar10.validation"),
        *("corruptions.train", "corruptions.validation", "cifar10.test"),
    ]
    assert tensors["cifar10.left_out"].tolist() == [7, 9] and tensors["cifar10.why"].tolist() == [1, 2]
    assert tensors["cifar10.pairs"].tolist() == [[7, 0, 3, 1], [9, 1, 5, 2]]
    assert tensors["stl10.left_out"].tolist() == [0, 4, *range(30, 40)]
    assert tensors["stl10.why"].tolist() == [1, 2, *[4] * 10]
    assert tensors["stl10.pairs"].tolist() == [[0, 2, 1, 1], [4, 4, 20, 2]]
    assert tensors["noise.left_out"].shape == (0,)
    found = metadata["sets"]["stl10"]
    assert {key: found[key] for key in ("role", "n", "left_out", "exact", "near", "class")} == {
        **{"role": "near", "n": 100, "left_out": 12, "exact": 1, "near": 1, "class": 10}
    }
    assert found["shared_classes"]["car"] == "automobile"
    assert found["duplicates"]["corruptions.train"] == {"exact": 1, "near": 0}
    assert found["duplicates"]["cifar10.test"] == {"exact": 0, "near": 1}
    assert "cifar10.test" not in metadata["sets"]["cifar10"]["duplicates"]


def test_the_control_is_scikit_learns_auroc_of_the_probe(run, tmp_path):
    _, tensors, metadata = run()
    known = load_tensors(tmp_path / "cifar10.safetensors")[0]["test.images"]
    assert np.array_equal(tensors["cifar10.artefact"], artefact_scores(known))
    for name in ("stl10", "noise"):
        scores = tensors[f"{name}.artefact"]
        both = np.concatenate([tensors["cifar10.artefact"], scores])
        truth = np.repeat([0, 1], [100, len(scores)])
        assert metadata["sets"][name]["control_auroc"] == pytest.approx(roc_auc_score(truth, both), abs=1e-12)
    assert "control_auroc" not in metadata["sets"]["cifar10"]
    assert metadata["sets"]["noise"]["control_auroc"] > 0.95


def test_two_runs_give_the_same_bytes(run, tmp_path):
    run()
    run(out="again")
    assert (tmp_path / "audit.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_wrong_input_is_named(run, tmp_path, capsys):
    assert run(id="digits")[0] == 1 and "needs 'digits' with role id" in capsys.readouterr().err
    cases = ("radius", 129, "at least 0 and at most 128"), ("correlation", 0, "at least 0.75")
    for key, value, limits in cases:
        assert run(**{key: value})[0] == 1
        assert f"audit.{key} must be {limits}" in capsys.readouterr().err
    tensors, _ = load_tensors(tmp_path / "stl10.safetensors")
    metadata = {"name": "stl10", "classes": ["car", "lorry"]}
    save_tensors(tmp_path / "stl10.safetensors", tensors, kind="set", metadata=metadata)
    capsys.readouterr()
    assert run()[0] == 1
    assert "cifar10: stl10: set 'stl10' has no class 'airplane'" in capsys.readouterr().err
    (tmp_path / "noise.safetensors").unlink()
    assert run()[0] == 1 and "noise.safetensors: no such file" in capsys.readouterr().err
    assert not (tmp_path / "audit.safetensors").exists()


def test_an_image_of_both_choosing_and_testing_stops_the_stage(run, tmp_path, capsys):
    tensors, metadata = load_tensors(tmp_path / "corruptions.safetensors")
    validation = tensors["validation.images"].copy()
    validation[3] = load_tensors(tmp_path / "noise.safetensors")[0]["test.images"][11]
    kept = {key: metadata[key] for key in ("name", "classes")}
    changed = {**tensors, "validation.images": validation}
    save_tensors(tmp_path / "corruptions.safetensors", changed, kind="set", metadata=kept)
    assert run()[0] == 1 and not (tmp_path / "disjoint.json").exists()
    said = capsys.readouterr().err
    assert "'corruptions' shares 1 of its validation images with the test images of 'noise'" in said
    assert "(positions 3 and 11, from 0)" in said


def test_what_depends_on_the_guard_runs_again_only_if_the_sets_change(run, tmp_path):
    run()
    before = (tmp_path / "disjoint.json").read_bytes()
    run(radius=20)
    assert (tmp_path / "disjoint.json").read_bytes() == before
    content = load_json(tmp_path / "disjoint.json")
    assert content == {"chosen_on": ["corruptions"], "tested_on": ["cifar10", "stl10", "noise"]}


def outliers_of(tmp_path, **more):
    """Plant ID and test images and an ID class among outliers; return their places and the whole content."""
    sets = {name: load_tensors(tmp_path / f"{name}.safetensors")[0] for name in ("cifar10", "stl10")}
    flower = load_sample_images().images[1]
    cut = [flower[5 * at : 5 * at + 16, 8 * at : 8 * at + 16] for at in range(60)]
    images = np.stack(cut).transpose(0, 3, 1, 2).copy()
    labels = np.full(60, 7)
    images[3] = sets["cifar10"]["train.images"][50]
    images[8] = (sets["cifar10"]["validation.images"][51] * 0.8 + 30).astype(np.uint8)
    images[9] = images[13] = sets["cifar10"]["test.images"][52]  # twice: the best double alone is not enough
    images[21] = sets["stl10"]["test.images"][53][:, :, ::-1]
    labels[30:33] = 1  # birds
    write(tmp_path, "photos", ["airplane", "bird"] + ["thing"] * 8, {"train": (images, labels)}, **more)
    params = PARAMS + "  photos: {role: auxiliary}\n"
    (tmp_path / "params.yaml").write_text(params)


def test_outliers_that_are_none_are_listed_for_the_training(run, tmp_path, monkeypatch):
    lists = {"cifar10": {"photos": [{"class": "bird", "like": "bird", "why": "the same class"}]}}
    (tmp_path / "lists.yaml").write_text(json.dumps(lists))
    known = partial(excluded_classes, path=tmp_path / "lists.yaml")
    monkeypatch.setattr("sslood.auditing.outliers.excluded_classes", known)
    outliers_of(tmp_path)
    assert run()[0] == 0
    found = load_json(tmp_path / "outliers.json")
    assert found == {
        "corruptions": {"n": 100, "left_out": 1, "exact": 1, "near": 0, "class": 0, "positions": [1]},
        "photos": {
            **{"n": 60, "left_out": 8, "exact": 3, "near": 2, "class": 3},
            "positions": [3, 8, 9, 13, 21, 30, 31, 32],
        },
    }


def test_outliers_made_from_id_images_may_be_like_them(run, tmp_path):
    outliers_of(tmp_path, source={"made from": "ID train and ID validation images"})
    assert run()[0] == 0
    assert load_json(tmp_path / "outliers.json")["photos"]["positions"] == [3, 9, 13]
