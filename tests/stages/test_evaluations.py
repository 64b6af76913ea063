"""The scripts posthoc, ssd, ssdk and ensemble as commands, on small synthetic files."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, read_metadata, save_tensors
from sslood.data.sets.roles.roles import record_role
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import save_model
from sslood.nets.networks.heads import build_head
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.ssd.ratio import FewShot
from sslood.ood.ssd.ssd import SSDSettings
from sslood.ood.ssd.ssdk import SSDkSettings
from sslood.views import choosing
from sslood.views import ensemble as views_ensemble
from sslood.views.ensemble import Answers, Votes, ask, rows_left_out
from sslood.views.members import load_members
from stages import ensemble, posthoc, ssd, ssdk
from tests.kit.registries import DETECTORS
from tests.kit.small import setting_flags

ROLES = {"digits": "id", "close": "near", "noise": "far", "corruptions": "tuning", "dusk": "shifted"}
FIXED = {"knn": {"k": 5}, "nnguide": {"k": 5}, "dice": {"dropped": 0.5}}  # what suits so few images
POSTHOC = [
    flag
    for name, kind in DETECTORS.items()
    for flag in setting_flags(kind.Settings(**FIXED.get(name, {})), name)
]
SSD_FLAGS = setting_flags(SSDSettings(clusters=3))
SSDK_FLAGS = setting_flags(SSDkSettings(k=2, repeats=3))


def embeddings(folder, model, *, head, width=8, classes=3, spoil=False, weights=True):
    random, tensors = np.random.default_rng(len(model)), {}
    for name, split, n, shift in [
        ("digits", "train", 240, 0), ("digits", "validation", 30, 0), ("digits", "test", 60, 0),
        ("close", "test", 50, 1), ("noise", "test", 40, 4), ("corruptions", "validation", 30, 2),
        ("dusk", "test", 60, 0.2),
    ]:  # fmt: skip
        labels = np.arange(n) % classes
        rows = random.normal(size=(n, width)) + 5 * np.eye(width)[labels] + shift * np.arange(width)[::-1]
        tensors[f"{name}.{split}.features"] = rows.astype(np.float32)
        tensors[f"{name}.{split}.labels"] = labels if name != "noise" else np.full(n, -1)
        if head:
            tensors[f"{name}.{split}.logits"] = rows[:, :classes].astype(np.float32)
        if split == "test" and name not in ("digits", "dusk"):
            views = rows[:20, None] + 0.1 * random.normal(size=(20, 4, width))
            tensors[f"{name}.shots.features"] = views.astype(np.float32)
            tensors[f"{name}.shots.index"] = np.arange(20)
    if head and weights:
        tensors |= {"head.weight": np.eye(width, dtype=np.float32)[:classes]}
        tensors |= {"head.bias": np.zeros(classes, np.float32)}
    if spoil:
        tensors["noise.test.features"][4] = np.nan
    metadata = {
        "model": model,
        "seed": 0,
        "id": "digits",
        "sets": {name: {"splits": {}, **record_role(role)} for name, role in ROLES.items()},
        "classes": [str(c) for c in range(classes)],
        "model_metadata": {},
    }
    save_tensors(folder / f"{model}.safetensors", tensors, kind="embeddings", metadata=metadata)


def run(script, tmp_path, *arguments, name="out"):
    outs = [
        "--out_results",
        str(tmp_path / f"{name}.json"),
        "--out_scores",
        str(tmp_path / f"{name}.safetensors"),
    ]
    return CliRunner().invoke(script.main, [*map(str, arguments), *outs])


def stage(script, tmp_path, options, models=("scratch", "classifier"), name="out", seed=0):
    chosen = [part for model in models for part in ("--models", model)]
    return run(script, tmp_path, "--embeddings", tmp_path / "e", *chosen, "--seed", seed, *options, name=name)


@pytest.fixture
def folder(tmp_path):
    embeddings(tmp_path / "e", "scratch", head=False)
    embeddings(tmp_path / "e", "classifier", head=True)
    return tmp_path


def listed(*names):
    return [part for name in names for part in ("--detectors", name)] + POSTHOC


def test_posthoc_writes_metrics_that_its_scores_give(folder):
    result = stage(posthoc, folder, listed(*DETECTORS))
    assert result.exit_code == 0, result.output
    written = json.loads((folder / "out.json").read_text())
    scores, metadata = load_tensors(folder / "out.safetensors", kind="scores")
    without_words = [name for name, kind in DETECTORS.items() if not kind.needs_concepts]
    headless = {
        name
        for name in without_words
        if DETECTORS[name].reads == ("features",) and not DETECTORS[name].needs_head
    }
    assert set(written["models"]["scratch"]) == headless
    assert list(written["models"]["classifier"]) == without_words
    assert written["chosen"]["knn.k"] == {"value": 5, "source": "params"}
    assert metadata["stage"] == "posthoc" and metadata["sets"] == ROLES
    for model, detectors in written["models"].items():
        for detector, sets in detectors.items():
            assert list(sets) == ["close", "noise"]
            for name, metrics in sets.items():
                pair = (scores[f"{model}.{detector}.{part}"] for part in ("digits", name))
                assert metrics == ood_metrics(*pair)
    assert written["models"]["scratch"]["mahalanobis"]["noise"]["auroc"] == 1.0
    classes = scores.pop("classifier.predicted.digits")
    arrays, _ = load_tensors(folder / "e" / "classifier.safetensors")
    np.testing.assert_array_equal(classes, arrays["digits.test.logits"].argmax(1))
    assert all(array.dtype == np.float64 for array in scores.values())


def test_what_counts_as_id_is_scored_without_metrics_of_its_own(folder):
    """Scores of sets under shift, and of ID validation, unless the model was trained on it."""
    arrays, metadata = load_tensors(folder / "e" / "classifier.safetensors")
    about = metadata | {"model": "seen", "model_metadata": {"saw_validation": True}}
    save_tensors(folder / "e" / "seen.safetensors", arrays, kind="embeddings", metadata=about)
    for script, options, detector in (
        (posthoc, listed("mahalanobis"), "mahalanobis"),
        (ssd, SSD_FLAGS, "ssd"),
    ):
        assert stage(script, folder, options, models=("classifier", "seen")).exit_code == 0
        found = json.loads((folder / "out.json").read_text())["models"]
        scores, _ = load_tensors(folder / "out.safetensors", kind="scores")
        for model, validation in (("classifier", True), ("seen", False)):
            assert list(found[model][detector]) == ["close", "noise"]
            assert len(scores[f"{model}.{detector}.dusk"]) == 60
            assert (f"{model}.{detector}.digits.validation" in scores) == validation
        own, dusk = (scores[f"classifier.{detector}.{name}"] for name in ("digits.validation", "dusk"))
        assert len(own) == 30 and np.median(own) < np.median(dusk), "its images are shifted"


def test_no_threshold_comes_from_scores_that_were_fitted_on_the_same_images(folder):
    """Of eight classes and few images, 5 % by scores of its own images would be more than 10 % of others."""
    names = ("msp", "kl_matching", "temperature_scaling")
    assert stage(posthoc, folder, listed(*names), models=["classifier"]).exit_code == 0
    scores, _ = load_tensors(folder / "out.safetensors", kind="scores")
    kept = [name for name in names if f"classifier.{name}.digits.validation" in scores]
    assert kept == ["msp"] == [name for name in names if not DETECTORS[name].on_validation]
    for name in names:
        assert f"classifier.{name}.digits" in scores and f"classifier.{name}.dusk" in scores


def searched(*names, **fixed):
    """Return the options of detectors with every setting of a grid on auto, but for those that are fixed."""
    found = [part for name in names for part in ("--detectors", name)]
    for name, kind in DETECTORS.items():
        for key, value in (vars(kind.Settings()) | dict.fromkeys(kind.space, "auto")).items():
            found += [f"--{name}.{key}", str(fixed.get(f"{name}_{key}", value))]
    return found


def test_a_search_names_what_it_chose_and_on_what(folder):
    result = stage(posthoc, folder, searched("knn", "msp", "vim", "gen"))
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "out.json").read_text())
    entry = found["chosen"]["classifier.vim.share"]
    best = max(entry["candidates"], key=lambda one: one["auroc"])
    assert entry["value"] == best["share"]
    assert entry["source"] == "highest mean AUROC of digits.validation against corruptions.validation"
    assert [one["share"] for one in entry["candidates"]] == list(DETECTORS["vim"].space["share"])
    assert "scratch.knn.k" in found["chosen"] and "knn.k" not in found["chosen"]
    assert len(found["chosen"]["classifier.gen.gamma"]["candidates"]) == 9
    chosen = {"--vim.share": entry["value"], "--knn.k": found["chosen"]["classifier.knn.k"]["value"]}
    again = listed("knn", "vim")
    for option, value in chosen.items():
        again[again.index(option) + 1] = str(value)
    assert stage(posthoc, folder, again, models=["classifier"], name="again").exit_code == 0
    fixed = json.loads((folder / "again.json").read_text())["models"]["classifier"]
    assert {name: found["models"]["classifier"][name] for name in fixed} == fixed


def test_a_number_is_honoured_and_the_search_is_over_the_others(folder):
    options = searched("ash", "knn", ash_pruned=0.5, knn_k=7)
    assert stage(posthoc, folder, options, models=["classifier"]).exit_code == 0
    found = json.loads((folder / "out.json").read_text())["chosen"]
    assert found["classifier.ash.pruned"] == {"value": 0.5, "source": "params"}
    assert found["knn.k"] == {"value": 7, "source": "params"}
    tried = found["classifier.ash.variant"]["candidates"]
    assert [set(one) for one in tried] == 3 * [{"variant", "auroc"}]
    for one in tried:
        again = listed("ash")
        again[again.index("--ash.variant") + 1] = one["variant"]
        again[again.index("--ash.pruned") + 1] = "0.5"
        assert stage(posthoc, folder, again, models=["classifier"], name="one").exit_code == 0
        scores, _ = load_tensors(folder / "one.safetensors")
        fitted = json.loads((folder / "one.json").read_text())
        assert fitted["chosen"]["ash.variant"]["value"] == one["variant"] and scores
    best = max(tried, key=lambda one: one["auroc"])
    assert found["classifier.ash.variant"]["value"] == best["variant"]


def test_what_a_key_of_old_params_is_called_now(folder):
    result = stage(posthoc, folder, [*listed("knn"), "--search"])
    assert result.exit_code == 2
    assert "--search is gone: write `auto` for each setting that is to be chosen" in result.output
    result = stage(ssd, folder, [*SSD_FLAGS, "--no-select"])
    assert "--no-select is gone: write `auto` for clusters, covariance or ridge" in result.output


def test_a_search_looks_at_no_test_image(folder):
    """Other test images change the metrics, and nothing that was chosen."""
    assert stage(posthoc, folder, searched("knn", "vim", "ash"), models=["classifier"]).exit_code == 0
    before = json.loads((folder / "out.json").read_text())
    path = folder / "e" / "classifier.safetensors"
    arrays, metadata = load_tensors(path)
    arrays = {key: array + (".test." in key) * array.dtype.type(3) for key, array in arrays.items()}
    save_tensors(path, arrays, kind="embeddings", metadata=metadata)
    assert stage(posthoc, folder, searched("knn", "vim", "ash"), models=["classifier"]).exit_code == 0
    after = json.loads((folder / "out.json").read_text())
    assert after["chosen"] == before["chosen"] and after["models"] != before["models"]


def test_a_search_takes_what_is_possible_and_the_detectors_own_without_a_tuning_set(folder):
    arrays, metadata = load_tensors(folder / "e" / "scratch.safetensors")
    sets = {name: entry for name, entry in metadata["sets"].items() if name != "corruptions"}
    about = metadata | {"sets": sets, "model": "untuned"}
    save_tensors(folder / "e" / "untuned.safetensors", arrays, kind="embeddings", metadata=about)
    result = stage(posthoc, folder, searched("knn"), models=["untuned"])
    chosen = json.loads((folder / "out.json").read_text())["chosen"]["untuned.knn.k"]
    assert chosen == {"value": 50, "source": "the detector's own, since no set has role tuning"}
    few = {key: array[:3] if "digits.train" in key else array for key, array in arrays.items()}
    save_tensors(
        folder / "e" / "few.safetensors", few, kind="embeddings", metadata=metadata | {"model": "few"}
    )
    result = stage(posthoc, folder, searched("knn"), models=["few"])
    assert result.exit_code == 0, result.output
    candidates = json.loads((folder / "out.json").read_text())["chosen"]["few.knn.k"]["candidates"]
    assert [one["auroc"] is None for one in candidates] == [False] + 6 * [True]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_declared_space_names_settings_that_may_be_auto(name):
    kind = DETECTORS[name]
    for key, values in kind.space.items():
        assert all(replace(kind.Settings(), **{key: value}) for value in (*values, "auto"))
        assert len(set(values)) == len(values)
    assert np.prod([len(values) for values in kind.space.values()]) <= 20


@pytest.mark.parametrize(
    "script, options", [(posthoc, listed("knn", "msp")), (ssd, SSD_FLAGS), (ssdk, SSDK_FLAGS)]
)
def test_two_runs_give_the_same_bytes(folder, script, options):
    for name in ("a", "b"):
        assert stage(script, folder, options, name=name).exit_code == 0
    for suffix in ("json", "safetensors"):
        assert (folder / f"a.{suffix}").read_bytes() == (folder / f"b.{suffix}").read_bytes()


def test_embeddings_without_the_head_leave_out_the_rows_that_read_it(folder):
    embeddings(folder / "e", "old", head=True, weights=False)
    result = stage(posthoc, folder, listed("vim", "react", "she", "knn"), models=["old"])
    assert result.exit_code == 0, result.output
    written = json.loads((folder / "out.json").read_text())
    assert list(written["models"]["old"]) == ["she", "knn"]
    assert [row["detector"] for row in written["left_out"]] == ["vim", "react"]
    for row in written["left_out"]:
        assert re.search("reads the weights of the classifier.*`dvc repro embed`", row["reason"])


def test_ssd(folder):
    result = stage(ssd, folder, SSD_FLAGS)
    assert result.exit_code == 0, result.output
    written = json.loads((folder / "out.json").read_text())
    assert written["models"]["scratch"]["ssd"]["noise"]["auroc"] > 0.99
    assert written["chosen"]["ssd.clusters"] == {"value": 3, "source": "params"}


def test_ssd_selects_by_id_validation_alone(folder):
    options = ["auto" if part in ("3", "ridge", "1e-06") else part for part in SSD_FLAGS]
    result = stage(ssd, folder, options)
    assert result.exit_code == 0, result.output
    chosen = json.loads((folder / "out.json").read_text())["chosen"]
    found = chosen["classifier.ssd.clusters"]
    assert chosen["classifier.ssd.tied"] == {"value": False, "source": "params"}
    assert "auto" not in {entry["value"] for entry in chosen.values()}
    assert found["value"] == 3, "three classes, well apart"
    assert found["source"] == "highest mean log-likelihood of ID validation"
    best = max(found["candidates"], key=lambda one: one["log_likelihood"])
    assert best["clusters"] == 3
    path = folder / "e" / "classifier.safetensors"
    arrays, metadata = load_tensors(path)
    for name in [name for name in arrays if not name.startswith(("digits.train", "digits.validation"))]:
        arrays[name] = arrays[name] + arrays[name].dtype.type(2)
    save_tensors(path, arrays, kind="embeddings", metadata=metadata)
    assert stage(ssd, folder, options).exit_code == 0
    assert json.loads((folder / "out.json").read_text())["chosen"]["classifier.ssd.clusters"] == found


def test_ssd_says_when_no_model_has_the_layer(folder):
    options = [part if part != "features" else "projections" for part in SSD_FLAGS]
    result = stage(ssd, folder, options)
    assert result.exit_code == 1 and "no model has what the chosen detectors read" in result.output


def test_ssdk_leaves_the_picked_images_out(folder):
    result = stage(ssdk, folder, SSDK_FLAGS)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "out.json").read_text())["models"]["scratch"]["ssdk"]
    assert found["close"]["n_ood"] == 50 - 2 * 3 and found["noise"]["n_ood"] == 40 - 2
    assert found["close"]["repeats"] == 3 and found["close"]["auroc_std"] >= 0
    assert found["close"]["auroc"] > 0.95, "knowing some of the set helps: SSD has 0.7 with one cluster"
    scores, _ = load_tensors(folder / "out.safetensors", kind="scores")
    assert len(scores["scratch.ssdk.close"]) == len(scores["scratch.ssdk.close.index"]) == 44
    assert len(scores["scratch.ssdk.digits"]) == 60


def test_ssdk_says_where_left_out_images_speak_for_ssd(folder):
    assert "ssd itself" not in stage(ssdk, folder, SSDK_FLAGS).output
    found = json.loads((folder / "out.json").read_text())
    close = found["models"]["scratch"]["ssdk"]["close"]
    assert close["fallbacks"] == 0 and close["held_out"] > 0.95 > close["held_out_ssd"]
    chosen = found["chosen"]["scratch.ssdk.close"]["value"]
    assert [one["used"] for one in chosen] == ["likelihood ratio"] * 3
    assert found["models"]["scratch"]["ssdk"]["noise"]["repeats"] == 3

    path = folder / "e" / "scratch.safetensors"
    arrays, metadata = load_tensors(path)
    index, width = arrays["noise.shots.index"], arrays["noise.test.features"].shape[1]
    sides = np.where(np.arange(len(index)) % 2, 2.0, -2.0)[:, None] * np.eye(width)[5]
    centre = arrays["digits.train.features"].mean(axis=0)
    arrays["noise.test.features"][index] = centre + sides
    arrays["noise.shots.features"][:] = (centre + sides)[:, None]
    save_tensors(path, arrays, kind="embeddings", metadata=metadata)
    result = stage(ssdk, folder, SSDK_FLAGS)
    assert result.exit_code == 0, result.output
    said = "ssd itself is used in 2 repeats, where it separates known images left out better: "
    assert f"{said}scratch on noise 2." in result.output
    found = json.loads((folder / "out.json").read_text())
    assert found["models"]["scratch"]["ssdk"]["noise"]["fallbacks"] == 2


def test_ssdk_says_where_repeats_know_the_same_images(folder):
    result = stage(ssdk, folder, SSDK_FLAGS)
    assert result.exit_code == 0 and "embed.shots" not in result.output
    whole = setting_flags(SSDkSettings(k=20, repeats=3, per_class=False))
    result = stage(ssdk, folder, whole)
    assert result.exit_code == 0, result.output
    assert "they all know the same images" in result.output and "embed.shots" in result.output
    found = json.loads((folder / "out.json").read_text())["models"]["scratch"]["ssdk"]["close"]
    assert found["alike"] == 1 and found["repeats"] == 3
    assert found["n_ood"] == 50 - 20, "all images of the pool are known"


def test_ssdk_in_the_papers_form(folder):
    flags = ["paper" if part == "likelihood_ratio" else part for part in SSDK_FLAGS]
    assert stage(ssdk, folder, flags).exit_code == 0
    found = json.loads((folder / "out.json").read_text())
    assert "fallbacks" not in found["models"]["scratch"]["ssdk"]["close"]
    assert found["chosen"]["ssdk.form"] == {"value": "paper", "source": "params"}


def test_wrong_names_list_the_known_ones(folder):
    result = stage(posthoc, folder, listed("knnn"))
    assert (
        result.exit_code == 1 and "unknown detector 'knnn'; known: ash, cfood, dice, energy" in result.output
    )
    result = stage(ssd, folder, SSD_FLAGS, models=["simclr"])
    assert result.exit_code == 1
    for part in ("simclr.safetensors", "known there: classifier, scratch", "dvc repro embed"):
        assert part in result.output
    result = stage(ssd, folder, SSD_FLAGS, seed=7)
    assert result.exit_code == 1 and "of seed 0, not 'scratch' of seed 7" in result.output


def test_missing_and_wrong_options(folder):
    assert stage(ssd, folder, SSD_FLAGS[2:]).exit_code == 2
    result = stage(ssd, folder, [part if part != "ridge" else "none" for part in SSD_FLAGS])
    assert result.exit_code == 2 and "ledoit_wolf" in result.output
    result = stage(posthoc, folder, [*listed("knn"), "--knn.kk", "3"])
    assert result.exit_code == 2 and "--knn.kk" in result.output


def test_broken_features_name_the_set(folder):
    embeddings(folder / "e", "broken", head=False, spoil=True)
    result = stage(ssd, folder, SSD_FLAGS, models=["broken"])
    assert result.exit_code == 1 and "noise.test: the features of 1 of 40 images are NaN" in result.output
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize("name", ["digits.validation", "corruptions.validation"])
def test_nan_among_the_scores_of_a_choice_names_model_detector_and_set(folder, monkeypatch, name):
    """The row is left out, as it is where scores of test images are NaN; the others stay."""
    score = DETECTORS["knn"].score

    def broken(detector, outputs):
        scores = score(detector, outputs)
        return np.where(outputs.name.endswith(name), np.nan, scores)

    monkeypatch.setattr(DETECTORS["knn"], "score", broken)
    result = stage(posthoc, folder, searched("knn", "msp"), models=["classifier"])
    assert result.exit_code == 0, result.output
    said = f"classifier · knn (30 of 30 scores of '{name}' are NaN, which no metric counts)"
    assert said in result.output
    assert list(json.loads((folder / "out.json").read_text())["models"]["classifier"]) == ["msp"]


def test_nan_among_the_scores_of_ssdk_names_model_and_set(folder, monkeypatch):
    monkeypatch.setattr(FewShot, "score", lambda fitted, rows: np.full(len(rows.white), np.nan))
    result = stage(ssdk, folder, SSDK_FLAGS, models=["scratch"])
    assert result.exit_code == 0, result.output
    assert "scratch · ssdk · close (60 of 60 scores of 'digits' are NaN, which no" in result.output


def image_sets(folder, classes=3, size=8):
    random = np.random.default_rng(0)
    for name, role in ROLES.items():
        tensors = {}
        for split in ("train", "validation", "test"):
            images = random.integers(0, 256 if role == "id" else 60, size=(40, 1, size, size), dtype=np.uint8)
            tensors |= {f"{split}.images": images, f"{split}.labels": np.arange(40) % classes}
        metadata = {"name": name, "size": size, "channels": 1, "classes": [str(c) for c in range(classes)]}
        save_tensors(folder / f"{name}.safetensors", tensors, kind="set", metadata=metadata)


def members(folder, classes=3, size=8, names=("0", "1", "2"), **changes):
    """Write a member of each class; `changes` go into the card of the last."""
    for fold in range(classes):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold)
            arch = changes.get("arch", "resnet-8-4") if fold == classes - 1 else "resnet-8-4"
            backbone = build_backbone(arch, channels=1)
            head = build_head(backbone.feature_dim, classes - 1)
        card = ModelCard(
            name=f"leaveout_resnet_{fold}", arch=arch, objective="leaveout", seed=4, size=size,
            channels=1, mean=[0.5], std=[0.3], resize="none", id="digits", classes=list(names),
            head_classes=[c for c in range(classes) if c != fold], feature_dim=backbone.feature_dim,
            settings={"beta": 0.2, "fold": fold, "folds": list(range(classes))},
        )  # fmt: skip
        card = card.replace(**changes) if fold == classes - 1 else card
        save_model(folder / f"{fold}.safetensors", {"backbone": backbone, "head": head}, card)


def run_ensemble(
    folder, name="out", temperature="1000", precision="float32", choose_on="tuning", sets=ROLES, draws=0,
    sweep=False, steps=None, fallback=(),
):  # fmt: skip
    (folder / "params.yaml").write_text(
        "sets:\n" + "".join(f"  {n}: {{role: {r}}}\n" for n, r in sets.items())
        + f"steps: {json.dumps({'resnet': steps or {}})}\n"
    )  # fmt: skip
    return run(
        ensemble, folder, "--backbone", "resnet", "--loss", "margin", "--precision", precision,
        "--members", folder / "m", "--id", "digits", "--sets", f"{folder}/params.yaml:sets",
        "--folder", folder / "s", "--temperatures", temperature, "--epsilons", "0.0", "--epsilons", "0.002",
        "--targets", "predicted", "--targets", "entropy", "--choose_on", choose_on,
        "--draws", draws, "--sweep" if sweep else "--no-sweep",
        *(["--steps", f"{folder}/params.yaml:steps"] if steps else []),
        *(word for number in fallback for word in ("--fallback", number)), name=name,
    )  # fmt: skip


def test_ensemble(tmp_path):
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    for name in ("out", "again"):
        result = run_ensemble(tmp_path, name)
        assert result.exit_code == 0, result.output
    for suffix in ("json", "safetensors"):
        assert (tmp_path / f"out.{suffix}").read_bytes() == (tmp_path / f"again.{suffix}").read_bytes()
    written = json.loads((tmp_path / "out.json").read_text())
    rows = written["models"]["leaveout_resnet"]
    assert list(rows) == [
        "eloc", "eloc_max", "eloc_entropy", "eloc_1", "eloc_2", "member_odin",
        "eloc_noodin", "member_msp", "member_energy", "mean_msp",
    ]  # fmt: skip
    assert list(rows["eloc"]) == ["close", "noise"]
    scores, _ = load_tensors(tmp_path / "out.safetensors")
    assert len(scores["leaveout_resnet.eloc.dusk"]) == 40
    truth = np.arange(40) % 3  # as `image_sets` labels them
    right = (scores["leaveout_resnet.predicted.digits"] == truth).mean()
    assert right == written["accuracy"]["leaveout_resnet"]
    chosen = written["chosen"]["setting"]
    best = max(chosen["candidates"], key=lambda one: one["auroc"])
    assert {**chosen["value"], "auroc": best["auroc"]} == best and len(chosen["candidates"]) == 3
    assert chosen["source"] == "highest AUROC of digits.validation against the tuning sets"
    accuracy = written["accuracy"]["leaveout_resnet"]
    assert written["mistakes"]["leaveout_resnet"]["error"] == pytest.approx(1 - accuracy)
    assert list(written["members"]["leaveout_resnet"]) == ["0", "1", "2"]
    assert read_metadata(tmp_path / "out.safetensors", kind="scores")["seed"] == 4


def test_sets_of_an_ensemble_may_have_the_names_of_splits(tmp_path):
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    assert run_ensemble(tmp_path).exit_code == 0
    new = {"noise": "tuning", "close": "validation"}
    for old, name in new.items():
        (tmp_path / f"s/{old}.safetensors").rename(tmp_path / f"s/{name}.safetensors")
    sets = {new.get(name, name): role for name, role in ROLES.items()}
    result = run_ensemble(tmp_path, "renamed", sets=sets)
    assert result.exit_code == 0, result.output
    rows, renamed = (
        json.loads((tmp_path / f"{name}.json").read_text())["models"]["leaveout_resnet"]["eloc"]
        for name in ("out", "renamed")
    )
    assert renamed == {new[name]: row for name, row in rows.items()}


def test_an_ensemble_with_dropout_draws_and_a_sweep_keeps_all_other_rows(tmp_path):
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    assert run_ensemble(tmp_path).exit_code == 0
    plain = json.loads((tmp_path / "out.json").read_text())
    result = run_ensemble(tmp_path, draws=3, sweep=True)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out.json").read_text())
    rows, swept = written["models"]["leaveout_resnet"], written.pop("sweep")["leaveout_resnet"]
    assert set(rows.pop("member_mc_dropout")) == {"close", "noise"} and written == plain
    assert swept["chosen"] == plain["chosen"]["setting"]["value"] and len(swept["points"]) == 3
    at = {key: value for key, value in swept["chosen"].items()}
    best = next(point for point in swept["points"] if at.items() <= point.items())
    assert best["auroc"] == {name: pytest.approx(rows["eloc"][name]["auroc"]) for name in rows["eloc"]}
    assert list(swept["disagreement"]) == ["digits", "close", "noise", "dusk"]


def test_published_steps_are_a_row_beside_the_others_and_choose_nothing(tmp_path):
    """At temperature 1000 the row has the score that the sweep has at that step; all other rows stay."""
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    assert run_ensemble(tmp_path, sweep=True).exit_code == 0
    plain = json.loads((tmp_path / "out.json").read_text())
    before, _ = load_tensors(tmp_path / "out.safetensors")
    result = run_ensemble(tmp_path, sweep=True, steps={"noise": 0.002, "close": 0.0})
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out.json").read_text())
    row = written["models"]["leaveout_resnet"].pop("eloc_published")
    value = written["chosen"].pop("eloc_published")["value"]
    assert written == plain and {name: one["epsilon"] for name, one in value.items()} == {
        "noise": 0.002, "close": 0.0,
    }  # fmt: skip
    points = plain["sweep"]["leaveout_resnet"]["points"]
    for name, one in value.items():
        (swept,) = (point["auroc"][name] for point in points if one.items() <= point.items())
        assert row[name]["auroc"] == pytest.approx(swept)
    scores, _ = load_tensors(tmp_path / "out.safetensors")
    added = {key.removeprefix("leaveout_resnet.eloc_published.") for key in scores.keys() - before.keys()}
    assert added == {"digits", "digits.noise", "digits.close", "noise", "close"}
    result = run_ensemble(tmp_path, steps={"dusk": 0.002})
    assert result.exit_code == 1 and "steps.resnet.dusk: no set with role near or far" in result.output


def test_an_ensemble_with_nothing_to_choose_on_takes_the_fallback(tmp_path):
    """Without a tuning set: the rows are those of a run whose only candidate it is. Else it is not read."""
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    assert run_ensemble(tmp_path).exit_code == 0
    chosen = json.loads((tmp_path / "out.json").read_text())
    assert run_ensemble(tmp_path, fallback=(7.0, 0.0)).exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text()) == chosen
    left = {name: role for name, role in ROLES.items() if role != "tuning"}
    result = run_ensemble(tmp_path, sets=left, fallback=(1000.0, 0.002))
    assert result.exit_code == 0 and "T 1000, epsilon 0.002" in result.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert "left_out" not in written and written["chosen"]["setting"] == {
        "value": {"temperature": 1000.0, "epsilon": 0.002, "target": "predicted"},
        "source": "ensemble.fallback, since the ensemble chooses its settings on a set with role tuning, and "
        "there is none",
    }  # fmt: skip
    swept = run_ensemble(tmp_path, sets=left, fallback=(1000.0, 0.002), sweep=True)
    assert swept.exit_code == 0
    again = json.loads((tmp_path / "out.json").read_text())
    points = again["sweep"]["leaveout_resnet"]["points"]
    (own,) = (one for one in points if (one["epsilon"], one["target"]) == (0.002, "predicted"))
    rows = written["models"]["leaveout_resnet"]["eloc"]
    assert own["auroc"] == {name: pytest.approx(rows[name]["auroc"]) for name in rows}


def test_an_ensemble_chooses_on_left_out_classes_and_never_on_a_test_set(tmp_path):
    """Poisoned test splits, other OOD sets and no tuning set leave every choice as it was."""
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    before = {}
    for choose_on in ("tuning", "leftout"):
        assert run_ensemble(tmp_path, choose_on=choose_on).exit_code == 0
        before[choose_on] = json.loads((tmp_path / "out.json").read_text())["chosen"]
    for name in ROLES:
        tensors, metadata = load_tensors(tmp_path / f"s/{name}.safetensors", kind="set")
        tensors = {key: np.array(values) for key, values in tensors.items()}
        tensors["test.images"] = 255 - tensors["test.images"] // 2
        save_tensors(tmp_path / f"s/{name}.safetensors", tensors, kind="set", metadata=metadata)
    left = {name: role for name, role in ROLES.items() if role != "tuning"}
    result = run_ensemble(tmp_path, choose_on="leftout", sets=left)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out.json").read_text())["chosen"] == before["leftout"]
    assert run_ensemble(tmp_path).exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())["chosen"] == before["tuning"]
    result = run_ensemble(tmp_path, sets=left)
    assert result.exit_code == 0 and "no setting" in result.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert {row["detector"] for row in written["left_out"]} == set(rows_left_out(3))
    assert list(written["models"]["leaveout_resnet"]) == [
        "eloc_noodin", "member_msp", "member_energy", "mean_msp"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 5}, "2.safetensors: has seed 5, but 0.safetensors has 4; an ensemble is of one seed"),
        ({"arch": "resnet-8-6"}, "2.safetensors: has arch resnet-8-6, but 0.safetensors has resnet-8-4"),
        (
            {"settings": {"beta": 0.0, "fold": 2, "folds": [0, 1, 2]}},
            "2.safetensors: was trained with beta 0.0",
        ),
        (
            {"settings": {"beta": 0.2, "fold": 2, "folds": [0, 1]}},
            "2.safetensors: was trained with folds [0, 1]",
        ),
    ],
)
def test_members_that_do_not_belong_together_are_named(tmp_path, changes, says):
    image_sets(tmp_path / "s")
    members(tmp_path / "m", **changes)
    result = run_ensemble(tmp_path)
    assert result.exit_code == 1 and says in result.output


@pytest.mark.parametrize("name", ["ID validation", "tuning"])
def test_nan_among_the_scores_that_an_ensemble_chooses_on_is_named(tmp_path, monkeypatch, name):
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    votes = Votes(np.full(40, np.nan), np.full(40, np.nan))

    def broken(member, images, settings, **more):
        dark = "tuning" if images.max() < 60 else "ID validation"
        found = ask(member, images, settings, **more)
        return found._replace(votes=[votes] * len(settings)) if dark == name else found

    monkeypatch.setattr(choosing, "ask", broken)
    result = run_ensemble(tmp_path)
    said = f"leaveout_resnet, eloc: 40 of 40 scores of '{name}' are NaN, which no metric counts"
    assert result.exit_code == 1 and said in result.output, result.output


def test_nan_of_an_ensemble_on_a_test_set_is_named(tmp_path, monkeypatch):
    image_sets(tmp_path / "s")
    members(tmp_path / "m")

    nan = Answers([], np.full((40, 2), np.nan))
    monkeypatch.setattr(views_ensemble, "ask", lambda *given, **more: nan)
    result = run_ensemble(tmp_path, sets={name: role for name, role in ROLES.items() if role != "tuning"})
    said = "leaveout_resnet, digits: the ensemble's probabilities are NaN; look at the training"
    assert result.exit_code == 1 and said in result.output, result.output


def test_a_member_that_another_was_copied_over_is_named(tmp_path):
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    shutil.copy(tmp_path / "m/1.safetensors", tmp_path / "m/0.safetensors")
    result = run_ensemble(tmp_path)
    said = "m/0.safetensors: holds the model 'leaveout_resnet_1' of seed 4, not 'leaveout_resnet_0'; write it"
    assert result.exit_code == 1 and said in result.output


def test_members_are_in_the_order_of_their_folds(tmp_path):
    members(tmp_path / "m")
    for fold in (10, 11):
        shutil.copy(tmp_path / "m/0.safetensors", tmp_path / f"m/{fold}.safetensors")
    with pytest.raises(InputError, match=r"holds members 0, 1, 2, 10, 11, but the folds are 0, 1, 2: 10, 11"):
        load_members(tmp_path / "m", [], "cpu", "float32")


def test_a_missing_member_is_named(tmp_path):
    image_sets(tmp_path / "s")
    members(tmp_path / "m")
    (tmp_path / "m/1.safetensors").unlink()
    result = run_ensemble(tmp_path)
    assert result.exit_code == 1
    assert "holds members 0, 2, but the folds are 0, 1, 2: 1 is missing or left over" in result.output


def test_ensemble_refuses_what_does_not_fit(tmp_path):
    image_sets(tmp_path / "s")
    (tmp_path / "m").mkdir()
    result = run_ensemble(tmp_path)
    assert result.exit_code == 1 and "dvc repro leaveout" in result.output
    members(tmp_path / "m", names=("a", "b", "c"))
    result = run_ensemble(tmp_path)
    assert result.exit_code == 1 and "another profile" in result.output
    members(tmp_path / "m", size=16)
    result = run_ensemble(tmp_path)
    assert result.exit_code == 1 and "16x16" in result.output
    result = run_ensemble(tmp_path, temperature="0")
    assert result.exit_code == 1 and "ensemble.temperatures must be above 0, found 0" in result.output
    assert run_ensemble(tmp_path, precision="bf16").exit_code == 2
    (tmp_path / "s" / "noise.safetensors").unlink()
    result = run_ensemble(tmp_path)
    assert result.exit_code == 1 and "dvc repro download" in result.output


@pytest.fixture
def more(tmp_path_factory):
    """Return FILE:KEY of a section of more rows."""

    def write(**rows):
        path = tmp_path_factory.mktemp("rows") / "params.yaml"
        path.write_text(yaml.safe_dump({"rows": rows}))
        return f"{path}:rows"

    return write


def test_more_rows_of_ssd_are_those_of_a_stage_with_these_settings(folder, more):
    rows = more(ssd_1={"clusters": 1}, ssd_classes={"class_conditional": True, "tied": True})
    assert stage(ssd, folder, [*SSD_FLAGS, "--rows", rows]).exit_code == 0
    found = json.loads((folder / "out.json").read_text())
    kept = load_tensors(folder / "out.safetensors")[0]
    assert set(found["models"]["classifier"]) == {"ssd", "ssd_1", "ssd_classes"}
    assert found["chosen"]["ssd_1.clusters"] == {"value": 1, "source": "params"}
    for row, flags in (("ssd", SSD_FLAGS), ("ssd_1", setting_flags(SSDSettings(clusters=1)))):
        assert stage(ssd, folder, flags).exit_code == 0
        alone = load_tensors(folder / "out.safetensors")[0]
        for name in ("digits", "close", "noise"):
            assert np.array_equal(kept[f"scratch.{row}.{name}"], alone[f"scratch.ssd.{name}"])


def test_more_rows_of_ssdk_know_other_images(folder, more):
    result = stage(ssdk, folder, [*SSDK_FLAGS, "--rows", more(ssdk_1={"k": 1}, ssdk_paper={"form": "paper"})])
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "out.json").read_text())["models"]["scratch"]
    assert {row: sets["noise"]["n_ood"] for row, sets in found.items()} == {
        "ssdk": 38, "ssdk_1": 39, "ssdk_paper": 38,
    }  # fmt: skip
    # the images that one knows are among the two
    scores = load_tensors(folder / "out.safetensors")[0]
    one, two = (set(range(40)) - set(scores[f"scratch.{row}.noise.index"]) for row in ("ssdk_1", "ssdk"))
    assert len(one) == 1 and one < two


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"far": {"k": 1}}, "rows: 'far' must begin with ssdk_, e.g. ssdk_far"),
        ({"ssdk_1": {"kk": 1}}, "rows.ssdk_1: unknown key 'kk' (did you mean 'k'?)"),
        ({"ssdk_0": {"k": 0}}, "rows.ssdk_0.k must be at least 1, found 0"),
        ({"ssdk_x": 3}, "rows.ssdk_x: must hold what differs from `ssdk`, found 3"),
    ],
)
def test_rows_that_cannot_be_are_named(folder, more, rows, said):
    result = stage(ssdk, folder, [*SSDK_FLAGS, "--rows", more(**rows)])
    assert result.exit_code == 1 and said in result.output
