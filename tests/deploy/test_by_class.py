"""Thresholds by predicted class: the rate within each class, files that keep them, commands and graphs."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sslood.commands import drift, fit, score
from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.deploy.by_class import ByClass
from sslood.deploy.inputs import Inputs
from sslood.deploy.normal.fit_normal import fit_normal
from sslood.deploy.packed import pack, unpack
from sslood.deploy.scorer import describe_rule, load_deployed
from sslood.nets.inference.extract import extract
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.heads import build_head
from sslood.ood.kit.outputs import Outputs
from sslood.ood.measures.conformal import conformal_threshold
from stages import embed
from tests.deploy.test_deployment import deployed, scored
from tests.kit.small import call, model_card, write_encoder, write_params, write_sets


def drawn(random, count, classes=3):
    """Scores whose spread depends on the class, and the classes."""
    predicted = random.integers(0, classes, count)
    return random.normal(size=count) * (1 + 2 * predicted), predicted


def ascending(scores, predicted):
    order = np.argsort(scores)
    return scores[order], predicted[order]


def test_the_rate_holds_within_each_class_where_one_threshold_breaks_it():
    random, own, one = np.random.default_rng(0), [], []
    for _ in range(200):
        scores, predicted = ascending(*drawn(random, 200))
        new, classes = drawn(random, 300)
        rule = ByClass.of(scores, predicted, "abc", 0.1)
        alone = new > conformal_threshold(scores, 0.1).value
        for found, flags in ((own, rule.is_ood(new, classes)), (one, alone)):
            found.append([flags[classes == k].mean() for k in range(3)])
    rates, error = np.mean(own, 0), 4 * np.std(own, 0) / 14
    assert (rates <= 0.1 + error).all() and (rates > 0.1 - 1 / 40 - error).all()
    assert np.mean(one, 0)[0] < 0.01 and np.mean(one, 0)[2] > 0.2


def test_p_values_are_those_of_the_class_alone_and_agree_with_the_decision():
    random = np.random.default_rng(1)
    scores, predicted = ascending(*drawn(random, 300))
    new, classes = drawn(random, 200)
    rule = ByClass.of(scores, predicted, "abc", 0.05)
    p = rule.p_values(new, classes)
    for own, place, value in zip(new, classes, p, strict=True):
        mine = scores[predicted == place]
        assert value == (1 + (mine >= own).sum()) / (len(mine) + 1)
    np.testing.assert_array_equal(p <= 0.05, rule.is_ood(new, classes))
    assert rule.fewest == np.bincount(predicted).min()
    np.testing.assert_array_equal(rule.at(0.2).is_ood(new, classes), p <= 0.2)


def test_too_few_images_of_a_class_are_refused_with_the_number_needed():
    scores, predicted = np.arange(60.0), np.repeat([0, 1, 2], [30, 18, 12])
    says = (
        "a threshold for each class at alpha 0.05 needs at least 19 calibration images that are taken for "
        "the class, but 'dog' has 18, 'cow' has 12; calibrate on more ID images, raise alpha, or use one "
        "threshold for all"
    )
    with pytest.raises(InputError, match=says):
        ByClass.of(scores, predicted, ["cat", "dog", "cow"], 0.05)
    assert ByClass.of(scores, predicted, ["cat", "dog", "cow"], 0.1).fewest == 12
    with pytest.raises(InputError, match="'6' has 0 and 3 more classes have too few"):
        ByClass.of(scores, predicted, [str(k) for k in range(10)], 0.06)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Real digits, and an untrained network whose head knows them: least squares on its features."""
    folder = tmp_path_factory.mktemp("by_class")
    write_sets(folder)
    digits = load_tensors(folder / "digits.safetensors")[0]
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    card = model_card(name="digital", head_classes=list(range(8)))
    save_model(folder / "digital-0.safetensors", modules, card)
    network, about = load_model(folder / "digital-0.safetensors")
    scale = {"mean": about.mean, "std": about.std}
    features = extract(network, batches(digits["train.images"], 300), **scale)["features"]
    wide = np.column_stack([features, np.ones(len(features))])
    fitted = np.linalg.lstsq(wide, np.eye(8)[digits["train.labels"]], rcond=None)[0]
    with torch.no_grad():
        modules["head"].weight.copy_(torch.from_numpy(fitted[:-1].T))
        modules["head"].bias.copy_(torch.from_numpy(fitted[-1]))
    save_model(folder / "digital-0.safetensors", modules, card)
    params = write_params(folder / "params.yaml")
    sets = {"sets": f"{params}:sets", "sets_dir": folder, "id": "digits", "recipe": f"{params}:augment.shots"}
    plan = {"batch_size": 64, "precision": "float32", "shots": 2, "copies": 2, "seed": 0}
    out = folder / "e" / "digital.safetensors"
    assert not call(embed.main, model=folder / "digital-0.safetensors", **sets, **plan, out=out)
    assert not deployed(folder, "knn", out="by.safetensors", per_class=None, alpha=0.2)
    return folder


def test_deploy_and_score_decide_by_class(folder, tmp_path, capsys):
    outputs = load_tensors(folder / "e" / "digital.safetensors")[0]
    places = outputs["digits.validation.logits"].argmax(1)
    rule = load_deployed(folder / "by.safetensors").calibrated
    assert rule.fewest == np.bincount(places, minlength=8).min() > 4
    for image in load_tensors(folder / "digits.safetensors")[0]["test.images"][:40]:
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(image[0]).save(tmp_path / "in" / f"{len(list((tmp_path / 'in').iterdir())):02}.png")
    status, rows = scored(folder, tmp_path, "by.safetensors", tmp_path / "in")
    assert status == 0 and len({row["predicted_class"] for row in rows}) > 4
    for row in rows:
        mine = rule.calibration[rule.by_class.predicted == int(row["predicted_class"])]
        p = (1 + (mine >= float(row["score"])).sum()) / (len(mine) + 1)
        assert float(row["p_value"]) == p and row["is_ood"] == ("true" if p <= 0.2 else "false")
    said = capsys.readouterr()
    assert f"Warning: a class has only {rule.fewest} calibration images" in said.err
    scorer = load_deployed(folder / "by.safetensors")
    other = replace(scorer, calibrated=scorer.calibrated.at(0.2225))
    for one, rate in ((scorer, "20.0%"), (other, "22.25%")):
        assert f"at most {rate} of ID pictures of each" in describe_rule(one)["Called OOD"]
    assert scored(folder, tmp_path, "by.safetensors", tmp_path / "in", fdr=0.05)[0] == 1
    assert f"at least 19 calibration images, there are {rule.fewest}" in capsys.readouterr().err


def test_what_deploy_says_and_refuses(folder, tmp_path, capsys):
    assert deployed(folder, "knn", out="by2.safetensors", per_class=None, alpha=0.2) == 0
    found = capsys.readouterr()
    assert "OOD is above the threshold of the predicted class; at most 0.2 of ID of each class" in found.out
    assert "Called OOD: " in found.out and "digits (id, 200 images)" in found.out
    assert deployed(folder, "knn", out="none.safetensors", per_class=None, alpha=0.01) == 1
    says = "at least 99 calibration images that are taken for the class, but '0' has"
    assert says in capsys.readouterr().err
    assert not (folder / "none.safetensors").exists()
    write_encoder(tmp_path / "scratch-0.safetensors")
    assert deployed(folder, "knn", per_class=None, model=tmp_path / "scratch-0.safetensors") == 1
    says = "--per_class needs the classes that a model predicts, but model 'scratch' lacks a classifier head"
    assert says in capsys.readouterr().err


def test_a_file_keeps_them_and_lies_about_them_are_refused(folder):
    before = load_deployed(folder / "by.safetensors").calibrated
    arrays, content = pack(before)
    after = unpack(arrays, content, "d.safetensors").by_class
    assert after.thresholds == before.by_class.thresholds and list(after.names) == [str(k) for k in range(8)]
    np.testing.assert_array_equal(after.predicted, before.by_class.predicted)

    def lie(change, says):
        lying, said = {key: np.array(a) for key, a in arrays.items()}, copy.deepcopy(content)
        change(lying, said)
        with pytest.raises(InputError, match=f"d.safetensors: .*{says}"):
            unpack(lying, said, "d.safetensors")

    def moved(arrays, content):
        arrays["by_class.predicted"][-1] = (arrays["by_class.predicted"][-1] + 1) % 8

    lie(moved, "is not what its scores give")
    lie(lambda a, c: a["by_class.predicted"].fill(0.5), "is not a class for each calibration image")
    lie(lambda a, c: a.pop("by_class.predicted"), "'by_class.predicted' is nothing")
    lie(lambda a, c: c.pop("by_class"), "'by_class.predicted' is of no detector")
    lie(lambda a, c: c["by_class"]["names"].pop(), "is not a class for each calibration image")
    lie(lambda a, c: c["by_class"].update(names=[1]), "by_class")


def blobs(count, seed):
    """Features of three classes, of which the last is spread most, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = 12 * np.eye(3, 4)[labels]
    return (centres + random.normal(size=(count, 4)) * (0.3 + labels[:, None])).astype(np.float32), labels


def test_fit_gives_each_class_its_own(tmp_path, capsys):
    features, labels = blobs(900, 0)
    by = fit_normal(features, labels, "abc", alpha=0.1, detector="knn", with_head=True, per_class=True)
    one = fit_normal(features, labels, "abc", alpha=0.1, detector="knn", with_head=True)
    new = blobs(3000, 1)[0]
    inputs = Inputs(Outputs("new", features=new, logits=by.head.logits(new)))
    places, rates = inputs.predicted(), []
    for found in (by.calibrated, one.calibrated):
        flags = found.is_ood(found.score(inputs), found.places(inputs))
        rates.append([flags[places == k].mean() for k in range(3)])
    assert max(rates[0]) < 0.2 < max(rates[1]) and min(rates[0]) > 0.03 > min(rates[1])
    np.testing.assert_array_equal(by.calibrated.calibration, one.calibrated.calibration)
    bad = {"far": features[:2] + 100, "near": features[2::3][:3]}
    known = fit_normal(features, labels, "abc", alpha=0.1, with_head=True, per_class=True, bad=bad)
    assert known.calibrated.catches[0].share == 1.0
    with pytest.raises(InputError, match="each class need classes: put the pictures of each into a folder"):
        fit_normal(features, alpha=0.1, per_class=True)
    with pytest.raises(InputError, match="at least 199 calibration images .* taken for the class, but 'a'"):
        fit_normal(features, labels, "abc", alpha=0.005, detector="knn", with_head=True, per_class=True)


def test_fit_and_score_vectors_by_class(tmp_path, capsys):
    for name, seed in (("normal", 0), ("new", 1)):
        features, labels = blobs(600, seed)
        np.save(tmp_path / f"{name}.npy", features)
        np.save(tmp_path / f"{name}.labels.npy", labels)
    out = tmp_path / "d.safetensors"
    files = {"vectors": tmp_path / "normal.npy", "labels": tmp_path / "normal.labels.npy"}
    assert call(fit.main, **files, per_class=None, detector="knn", out=out) == 0
    said = capsys.readouterr().out
    assert "above the threshold of the predicted class; at most 0.05 of new normal vectors of" in said
    assert call(score.main, detector=out, vectors=tmp_path / "new.npy", out=tmp_path / "s.csv") == 0
    assert call(drift.main, detector=out, scores=tmp_path / "s.csv", state=tmp_path / "s.json") == 0
    assert "s.csv: " in (said := capsys.readouterr().out) and "600 pictures in 1 batch; no alarm" in said
