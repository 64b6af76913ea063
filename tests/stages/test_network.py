"""The stages `network` and `stochastic` as commands, on small model files, embeddings and sets."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import false_discovery_control

from sslood.commands import deploy, export, score
from sslood.core.files import load_tensors, read_metadata, save_tensors
from sslood.data.images.augment import AugmentSettings
from sslood.deploy.scorer import load_deployed
from sslood.nets.inference.embed import EmbedSettings, embed_sets
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.gaussian import GaussianHead, build_prior
from sslood.nets.networks.heads import build_head
from sslood.nets.objectives.rotation import Rotation
from sslood.ood.measures.metrics import ood_metrics
from sslood.views.opened import open_model
from stages import network, stochastic
from tests.kit.registries import NETWORK, STOCHASTIC, defaults
from tests.kit.small import call, model_card, steal, write_params, write_sets

SETS = {"digits": {"role": "id"}, "heldout": {"role": "near"}, "noise": {"role": "far"}}
SETS |= {"corruptions": {"role": "tuning"}}
FITTED = {"adascale_a", "adascale_l", "gram", "knn_layers", "mahalanobis_layers"}  # on ID validation too
NEAREST = ("kl_knn", "reverse_kl_knn", "bhattacharyya_knn", "euclidean_knn")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    write_sets(tmp_path)
    write_params(tmp_path / "params.yaml")
    return tmp_path


def write_model(folder, name, **changes):
    """Write an untrained model with the modules that `name` is made of, e.g. "head+rotation"."""
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1)}
        if "head" in name:
            modules["head"] = build_head(16, 8)
        if "rotation" in name:
            modules["rotation"] = build_head(16, 4)
        if "gaussian" in name:
            law = {"space": "h", "sigma": "diagonal", "components": changes.pop("components", 0)}
            modules["gaussian"] = GaussianHead(16, 16, single=False)
            modules["gaussian"].log_variance.weight.data = 0.1 * modules["gaussian"].mu.weight.data
            modules["prior"] = build_prior(law["components"], 16)
            changes["stochastic"] = law
    heads = list(range(8)) if "head" in name else None
    path = folder / f"{name}-0.safetensors"
    save_model(path, modules, model_card(name=name, head_classes=heads, **changes))
    return path


def test_rotation_prediction_leaves_its_head_in_the_model_file(folder):
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        objective = Rotation(backbone, Rotation.Settings(), classes=8)
    modules = {"backbone": backbone, **objective.saved_modules()}
    save_model(folder / "r.safetensors", modules, model_card(**objective.metadata()))
    model, _ = load_model(folder / "r.safetensors")
    opened = open_model(model, mean=[0.3], std=[0.4], device="cpu")
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(opened.rotations(x), objective.head(backbone.eval()(x)))
    assert opened.gradients is None and opened.maps is None


def run_network(folder, model, out="out", detectors=tuple(NETWORK), precision="float32", **asked):
    return call(
        network.main,
        model=model, id="digits", sets=f"{folder}/params.yaml:sets", folder=folder, detectors=list(detectors),
        precision=precision, **asked,
        **defaults(NETWORK) | {"gram__powers": 3, "knn_layers__k": 5, "nac__images": 100},
        out_results=folder / f"{out}.json", out_scores=folder / f"{out}.safetensors",
    )  # fmt: skip


def check_results(folder, stage, out="out"):
    """Compare the metrics with those of the scores; return the results."""
    written = json.loads((folder / f"{out}.json").read_text())
    scores, metadata = load_tensors(folder / f"{out}.safetensors", kind="scores")
    assert metadata["stage"] == stage and metadata["seed"] == 0 and metadata["sets"]["noise"] == "far"
    for model, detectors in written["models"].items():
        for detector, sets in detectors.items():
            assert list(sets) == ["heldout", "noise"]
            for name, metrics in sets.items():
                pair = (scores[f"{model}.{detector}.{part}"] for part in ("digits", name))
                assert metrics == ood_metrics(*pair)
    return written


def test_network_scores_with_what_the_model_has(folder, capsys):
    assert run_network(folder, write_model(folder, "head+rotation")) == 0
    written = check_results(folder, "network")
    assert list(written["models"]["head+rotation"]) == list(NETWORK)
    chosen = written["chosen"]
    assert chosen["gram.powers"] == {"value": 3, "source": "params"}
    assert chosen["odin.epsilon"]["value"] in NETWORK["odin"].space["epsilon"]
    assert chosen["splits"]["value"] == {
        "train": "digits.train", "validation": "digits.validation", "tuning": "corruptions.validation",
    }  # fmt: skip
    scores, _ = load_tensors(folder / "out.safetensors")
    images, _ = load_tensors(folder / "digits.safetensors")
    for name, kind in NETWORK.items():  # from which a threshold comes, unless the detector was fitted on them
        kept = scores.get(f"head+rotation.{name}.digits.validation")
        assert (kept is None) == ("validation" in kind.learns_from) == (name in FITTED)
        assert kept is None or len(kept) == len(images["validation.images"])
    turns = {"rotation", "rotation_uniform", "rotpred"}
    cases = {"head": set(NETWORK) - turns, "rotation": {"rotation", "rotation_uniform", "knn_layers"}}
    for name, expected in cases.items():
        assert run_network(folder, write_model(folder, name), name) == 0
        assert set(check_results(folder, "network", name)["models"][name]) == set(expected)
    assert "skipped: adascale_a, adascale_l, gram" in capsys.readouterr().out
    assert run_network(folder, write_model(folder, "plain"), "plain", detectors=["odin", "nac"]) == 1
    assert "no model has what the chosen detectors read" in capsys.readouterr().err


def test_network_gives_the_same_bytes_and_reads_no_test_image_to_choose(folder):
    model = write_model(folder, "head+rotation")
    assert run_network(folder, model) == run_network(folder, model, "again") == 0
    for suffix in ("json", "safetensors"):
        assert (folder / f"out.{suffix}").read_bytes() == (folder / f"again.{suffix}").read_bytes()
    before, _ = load_tensors(folder / "out.safetensors")
    for name in ("noise", "heldout"):
        tensors, metadata = load_tensors(folder / f"{name}.safetensors")
        tensors["test.images"] = 255 - tensors["test.images"]
        save_tensors(folder / f"{name}.safetensors", tensors, kind="set", metadata=metadata)
    assert run_network(folder, model, "changed") == 0
    after, _ = load_tensors(folder / "changed.safetensors")
    for key, values in before.items():
        assert np.array_equal(values, after[key]) == (".digits" in key), key


def test_network_names_what_is_wrong(folder, capsys):
    model = write_model(folder, "head")
    assert run_network(folder, model, detectors=["grams"]) == 1
    assert "unknown detector 'grams'; known: adascale_a, adascale_l, gram" in capsys.readouterr().err
    assert run_network(folder, write_model(folder, "head", size=16)) == 1
    assert "16x16" in capsys.readouterr().err
    model = write_model(folder, "head", classes=[str(label) for label in range(1, 9)])
    assert run_network(folder, model) == 1 and "another profile" in capsys.readouterr().err
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize(("name", "seed"), [("simclr", 0), ("head", 1)])
def test_network_refuses_a_file_that_another_model_was_copied_over(folder, name, seed, capsys):
    model = write_model(folder, "head")
    assert run_network(folder, model, detectors=["odin"], name="head", seed=0) == 0
    assert run_network(folder, model, "other", detectors=["odin"], name=name, seed=seed) == 1
    said = f"head-0.safetensors: holds the model 'head' of seed 0, not {name!r} of seed {seed}; write"
    assert said in capsys.readouterr().err and not (folder / "other.json").exists()


def write_embeddings(folder, name, **changes):
    path = write_model(folder, name, **changes)
    model, meta = load_model(path)
    settings = EmbedSettings(batch_size=64, precision="float32", shots=2, copies=1)
    tensors, described = embed_sets(
        model,
        meta,
        SETS,
        folder,
        "digits",
        settings=settings,
        recipe=AugmentSettings(),
        seed=0,
        where="model",
    )
    metadata = {"model": name, "seed": 0, "model_metadata": read_metadata(path), "id": "digits"}
    metadata |= {"classes": meta.classes, "sets": described}
    save_tensors(folder / f"e/{name}.safetensors", tensors, kind="embeddings", metadata=metadata)
    return tensors, model


def run_stochastic(folder, models, out="out", detectors=tuple(STOCHASTIC), **changes):
    settings = {f"{name}__k": 5 for name in NEAREST} | {"kl_prior__samples": 20} | changes
    return call(
        stochastic.main, embeddings=folder / "e", models=list(models), detectors=list(detectors), seed=0,
        out_results=folder / f"{out}.json", out_scores=folder / f"{out}.safetensors", **settings,
    )  # fmt: skip


@pytest.mark.parametrize("components", [0, 3])
def test_embeddings_keep_the_gaussians_and_the_prior(folder, components):
    tensors, model = write_embeddings(folder, "gaussian", components=components)
    assert tensors["digits.train.mu"].shape == tensors["digits.train.log_variance"].shape == (600, 16)
    np.testing.assert_array_equal(tensors["digits.train.mu"], tensors["digits.train.features"])
    weights, mu, log_variance = (tensors[f"prior.{part}"] for part in ("log_weights", "mu", "log_variance"))
    assert mu.shape == log_variance.shape == (max(components, 1), 16)
    np.testing.assert_allclose(np.exp(weights).sum(), 1, rtol=1e-6)
    if components:
        np.testing.assert_array_equal(mu, model.prior.mu.detach().numpy())
    else:
        assert not mu.any() and not log_variance.any()


def test_stochastic_passes_over_models_without_a_gaussian(folder, capsys):
    write_embeddings(folder, "gaussian", components=2)
    write_embeddings(folder, "plain")
    assert run_stochastic(folder, ["plain", "gaussian"]) == 0
    written = check_results(folder, "stochastic")
    assert {model: list(found) for model, found in written["models"].items()} == {
        "gaussian": list(STOCHASTIC)
    }
    for name in STOCHASTIC:
        sign = written["chosen"][f"gaussian.{name}.direction"]
        assert sign["value"] == "larger = more OOD" and sign["source"] == "declared"
        assert 0 <= sign["validation_auroc"]["corruptions"] <= 1
    assert run_stochastic(folder, ["plain", "gaussian"], "again") == 0
    assert (folder / "out.safetensors").read_bytes() == (folder / "again.safetensors").read_bytes()
    assert run_stochastic(folder, ["plain"], "none") == 1
    assert "no model has what the chosen detectors read" in capsys.readouterr().err
    assert run_stochastic(folder, ["gaussian"], kl_knn__k=700) == 0
    assert "gaussian · kl_knn (needs 700 train images, there are 600)" in capsys.readouterr().out
    assert run_stochastic(folder, ["gaussian"], detectors=["sigma"]) == 1
    assert "unknown detector 'sigma'" in capsys.readouterr().err


def test_a_score_that_is_left_out_has_no_direction(folder, capsys):
    """A variance beyond float64, of a network that fell apart, ends no stage: others read the means alone."""
    write_embeddings(folder, "gaussian")
    path = folder / "e/gaussian.safetensors"
    arrays, metadata = load_tensors(path)
    for split in ("validation", "test"):
        arrays[f"digits.{split}.log_variance"] = arrays[f"digits.{split}.log_variance"].copy()
        arrays[f"digits.{split}.log_variance"][3] = 3000.0
    save_tensors(path, arrays, kind="embeddings", metadata=metadata)
    assert run_stochastic(folder, ["gaussian"], detectors=["sigma_spread", "euclidean_knn"]) == 0
    written = check_results(folder, "stochastic")
    assert list(written["models"]["gaussian"]) == ["euclidean_knn"]
    assert [key for key in written["chosen"] if "direction" in key] == ["gaussian.euclidean_knn.direction"]
    assert "gaussian · sigma_spread (1 of" in capsys.readouterr().out


def test_a_stochastic_model_decides_for_single_images(folder):
    tensors, _ = write_embeddings(folder, "gaussian")
    status = call(
        deploy.main, model=folder / "gaussian-0.safetensors", embeddings=folder / "e/gaussian.safetensors",
        detector="knn", alpha=0.05, set="knn.k=5", out=folder / "d.safetensors",
    )  # fmt: skip
    assert status == 0
    scorer = load_deployed(folder / "d.safetensors")
    images, _ = load_tensors(folder / "heldout.safetensors")
    found = scorer.decide(images["test.images"]).scores
    train, held = (tensors[f"{name}.features"].astype(float) for name in ("digits.train", "heldout.test"))
    train, held = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (train, held))
    expected = np.sort(np.linalg.norm(held[:, None] - train[None], axis=2), axis=1)[:, 4]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def decide(folder, model, detectors, images, **changes):
    """Deploy detectors for a model file of `write_model`; return the scorer and its scores of the images."""
    embeddings = folder / "e" / model.name.replace("-0", "")
    known = {"embeddings": embeddings} if embeddings.exists() else {}
    status = call(
        deploy.main, model=model, detector=list(detectors), alpha=0.05, params=folder / "params.yaml",
        sets_dir=folder, out=folder / "d.safetensors", **known, **changes,
    )  # fmt: skip
    assert status == 0
    scorer = load_deployed(folder / "d.safetensors")
    return scorer, scorer.decide(images).scores


def test_deployed_gram_matrices_divide_by_what_half_of_validation_deviates(folder):
    model = write_model(folder, "head")
    digits = load_tensors(folder / "digits.safetensors")[0]
    scorer, scores = decide(folder, model, ["gram"], digits["test.images"], set="gram.powers=3")
    opened = open_model(load_model(model)[0], mean=[0.3], std=[0.37], device="cpu")
    parts = {"train": digits["train.images"], "validation": digits["validation.images"][::2]}
    fitted = NETWORK["gram"](NETWORK["gram"].Settings(powers=3)).fit(opened, parts)
    np.testing.assert_allclose(scores, fitted.score(opened, digits["test.images"]), rtol=1e-9)
    assert scorer.calibrated.threshold.images == 50


def test_a_folder_of_pictures_judged_by_detectors_of_all_kinds_together(folder, capsys):
    write_embeddings(folder, "head+gaussian")
    model, names = folder / "head+gaussian-0.safetensors", ["knn", "odin", "log_prior"]
    images = load_tensors(folder / "noise.safetensors")[0]["test.images"]
    given = ["knn.k=5", "odin.temperature=1000", "odin.epsilon=0.002"]
    scorer, scores = decide(folder, model, names, images, combine="simes", set=given)
    assert "knn + odin + log_prior by simes on" in capsys.readouterr().out
    (folder / "p").mkdir()
    for place, image in enumerate(images):
        Image.fromarray(image[0]).save(folder / "p" / f"{place:02}.png")
    values = {"detector": folder / "d.safetensors", "images": folder / "p", "fdr": 0.2}
    for size in (1, 7, 256):
        out = {"out": folder / f"{size}.csv", "html": folder / f"{size}.html"}
        assert call(score.main, **values, **out, batch_size=size) == 0
        with open(out["out"], newline="") as file:
            rows = list(csv.DictReader(file))
        found = [float(row["score"]) for row in rows]
        np.testing.assert_allclose(found, scores, rtol=1e-4)  # whatever else is in the batch
        p = np.array([float(row["p_value"]) for row in rows])
        np.testing.assert_array_equal(p, scorer.calibrated.p_values(np.array(found)))
        expected = false_discovery_control(p) <= 0.2
        np.testing.assert_array_equal([row["is_ood"] == "true" for row in rows], expected)
    assert call(export.main, detector=folder / "d.safetensors", out=folder / "d.onnx") == 1
    assert "'knn + odin + log_prior by simes' cannot be written as ONNX" in capsys.readouterr().err


def test_deploy_names_what_does_not_go_together(folder, capsys):
    params = folder / "params.yaml"
    params.write_text(
        params.read_text() + "posthoc: {knn: {k: auto}}\nstochastic: {kl_knn: {k: 5}}\n"
        "network: {odin: {temperature: 1000, epsilon: auto}}\n"
    )

    def refused(name, detectors, *, embedded=True, **changes):
        if embedded:
            write_embeddings(folder, name)
        known = {"embeddings": folder / f"e/{name}.safetensors"} if embedded else {}
        status = call(
            deploy.main, model=folder / f"{name}-0.safetensors", detector=detectors, alpha=0.05,
            params=params, choose=None, sets_dir=folder, out=folder / "d.safetensors", **known, **changes,
        )  # fmt: skip
        assert status == 1 and not (folder / "d.safetensors").exists()
        return capsys.readouterr().err

    lacks = "'odin' does not suit model 'plain', which lacks a classifier head"
    assert lacks in refused("plain", ["odin"])
    assert "'msp' does not suit model 'plain', which lacks a classifier head" in refused("plain", ["msp"])
    assert "lacks an embedding that is a Gaussian" in refused("plain", ["kl_knn"])
    assert "lacks a head that predicts quarter turns" in refused("head", ["rotation"])
    assert "give --embeddings data/embeddings/0/head.safetensors" in refused("head", ["knn"], embedded=False)
    assert "--detector names one twice" in refused("head", ["knn", "knn"], combine="simes")
    assert "how they make one score by --combine" in refused("head", ["knn", "odin"])
    assert "--combine needs two or more detectors" in refused("head", ["knn"], combine="fisher")
    write_embeddings(folder, "head")
    steal(folder, "noise", 1)
    assert "shares 1 of its validation images" in refused("head", ["odin"], embedded=False)
    write_sets(folder)
    arrays, metadata = load_tensors(folder / "digits.safetensors")
    fewer = {key: array[:90] if "validation" in key else array for key, array in arrays.items()}
    save_tensors(folder / "digits.safetensors", fewer, kind="set", metadata=metadata)
    known = {"embeddings": folder / "e/head.safetensors"}
    found = refused("head", ["knn", "odin"], embedded=False, combine="simes", **known)
    assert "holds the outputs of 100 images where the set has 90" in found
    (folder / "digits.safetensors").unlink()
    assert "digits.safetensors: no such file; run `dvc repro download`" in refused(
        "head", ["odin"], embedded=False
    )
