"""A deployed detector is the one that its stage measured: its AUROC on each test set is in the results."""

import json

import numpy as np
import pytest

from sslood.commands import deploy
from sslood.core.files import load_tensors
from sslood.deploy.calibrated import KINDS, NETWORK, STOCHASTIC, make_detector
from sslood.deploy.scorer import load_deployed
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.gaussian import GaussianHead, build_prior
from sslood.nets.networks.heads import build_head
from sslood.ood.kit.outputs import part_of, read_embeddings
from sslood.ood.measures.metrics import ood_metrics
from sslood.views.opened import open_model
from stages import embed, network, posthoc, ssd, stochastic
from tests.kit.registries import DETECTORS, defaults
from tests.kit.small import call, model_card, write_params, write_sets

OOD = ("heldout", "noise")
COMBINATIONS = (
    "combinations:\n  auto: {members: auto, by: sum}\n"
    "  pair: {members: [mahalanobis, energy], by: sum}\n  three: {members: [knn, msp, nci], by: fisher}\n"
)
FITTED_ON_VALIDATION = ("kl_matching", "temperature_scaling", "gram", "adascale_a", "adascale_l")
FITTED_ON_VALIDATION += ("knn_layers", "mahalanobis_layers")


def settings_of_all(kinds, **numbers):
    """Return option -> auto for settings with a grid, else the given number, of all detectors of a stage."""
    found = {"detectors": list(kinds)}
    for name, kind in kinds.items():
        found |= {f"{name}__{key}": "auto" for key in kind.space}
    return found | numbers


SECTIONS = {
    "posthoc": settings_of_all(
        DETECTORS, pnml__ridge=1e-10, relation__bank=100, weiper__repeats=3, weiper__bins=20,
        weiper__smooth=4, weiper__smooth_logits=4, cfood__bank=100, neglabel__groups=5,
    ),
    "ssd": {
        "clusters": "auto", "covariance": "auto", "ridge": "auto",
        "tied": False, "class_conditional": False, "layer": "features",
    },
    "stochastic": settings_of_all(
        STOCHASTIC, kl_prior__samples=20, **{f"{name}__k": 5 for name in STOCHASTIC if name.endswith("_knn")}
    ),
    "network": settings_of_all(NETWORK, **defaults(NETWORK) | {"gram__powers": 3, "knn_layers__k": 5})
    | {"precision": "float32"},
}  # fmt: skip


def as_yaml(section):
    """Return a section of params.yaml with the settings of SECTIONS."""
    lines = []
    for key, value in section.items():
        detector, _, name = key.rpartition("__")
        if name != "detectors":
            text = json.dumps(value)
            lines.append(f"  {detector}: {{{name}: {text}}}\n" if detector else f"  {name}: {text}\n")
    return lines


def write_models(folder):
    """Write a classifier with a rotation head, a stochastic encoder, and their embeddings."""
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        classifier = {"backbone": backbone, "head": build_head(16, 8), "rotation": build_head(16, 4)}
        gaussian = GaussianHead(16, 16, single=False)
        gaussian.log_variance.weight.data = 0.1 * gaussian.mu.weight.data
        encoder = {"backbone": backbone, "gaussian": gaussian, "prior": build_prior(2, 16)}
    law = {"space": "h", "sigma": "diagonal", "components": 2}
    changes = {"classifier": {"head_classes": list(range(8))}, "stochastic": {"stochastic": law}}
    for name, modules in {"classifier": classifier, "stochastic": encoder}.items():
        model = folder / f"{name}-0.safetensors"
        save_model(model, modules, model_card(name=name, **changes[name]))
        assert not call(
            embed.main, model=model, sets=f"{folder}/params.yaml:sets", sets_dir=folder, id="digits", seed=0,
            batch_size=256, precision="float32", recipe=f"{folder}/params.yaml:augment.shots", shots=2,
            copies=1, out=folder / f"e/{name}.safetensors",
        )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sets, models and their embeddings, and the results of four stages."""
    folder = tmp_path_factory.mktemp("measured")
    write_sets(folder)
    write_params(folder / "params.yaml")
    write_models(folder)
    (folder / "combined.yaml").write_text(COMBINATIONS)
    for name, script in {"posthoc": posthoc, "ssd": ssd, "stochastic": stochastic}.items():
        where = {"embeddings": folder / "e", "models": ["classifier", "stochastic"], "seed": 0}
        if name == "posthoc":
            where["combinations"] = f"{folder}/combined.yaml:combinations"
        outs = {
            "out_results": folder / f"results/{name}/0.json",
            "out_scores": folder / f"{name}.safetensors",
        }
        assert not call(script.main, **where, **SECTIONS[name], **outs), name
    out = {
        "out_results": folder / "results/network/classifier-0.json",
        "out_scores": folder / "n.safetensors",
    }
    where = {"id": "digits", "sets": f"{folder}/params.yaml:sets", "folder": folder}
    model = folder / "classifier-0.safetensors"
    assert not call(network.main, model=model, **where, **SECTIONS["network"], **out)
    return folder


def model_for(name):
    return "stochastic" if name in STOCHASTIC else "classifier"


def deployed(folder, name, **changes):
    """Deploy a detector; return its scorer."""
    model = model_for(name)
    values = {
        "model": folder / f"{model}-0.safetensors",
        "embeddings": folder / f"e/{model}.safetensors",
        "detector": name,
        "alpha": 0.05,
        "results": folder / "results",
        "params": folder / "params.yaml",
        "sets_dir": folder,
        "out": folder / "d.safetensors",
    }
    assert call(deploy.main, **values | changes) == 0
    return load_deployed(folder / "d.safetensors")


def measured(folder, name):
    """Return {OOD set: AUROC} of a detector in the results of its stage."""
    for path in (folder / "results").rglob("*.json"):
        found = json.loads(path.read_text())["models"].get(model_for(name), {})
        if name in found:
            return {ood: found[name][ood]["auroc"] for ood in OOD}
    raise AssertionError(f"no stage measured {name}")


def aurocs(folder, score):
    """Return {OOD set: AUROC} of the test images under `score`, uint8 images [N, 1, 8, 8] -> scores [N]."""
    images = {
        name: load_tensors(folder / f"{name}.safetensors")[0]["test.images"] for name in ("digits", *OOD)
    }
    inside = score(images["digits"])
    return {name: ood_metrics(inside, score(images[name]))["auroc"] for name in OOD}


def test_the_auroc_of_every_deployed_detector_is_the_measured_one(folder, capsys):
    apart = {}  # the table's scores are rounded, which may order a pair otherwise
    for name in set(KINDS) - {"mcm", "neglabel"}:  # whose models come without a network
        scorer = deployed(folder, name)
        found = aurocs(folder, lambda images, scorer=scorer: scorer.decide(images).scores)
        expected = measured(folder, name)
        near = 1e-3 if name == "nac" else 1e-4  # in float32 a state on the edge of a bin falls either way
        if any(abs(found[ood] - expected[ood]) > near for ood in OOD):
            apart[name] = (found, expected)
        said = capsys.readouterr().out
        halved = "images 1, 3, 5, … of digits.validation (50)" in said
        assert halved == (name in FITTED_ON_VALIDATION), said
        assert scorer.calibrated.threshold.images == (50 if halved else 100)
    assert set(apart) <= set(FITTED_ON_VALIDATION), apart


@pytest.mark.parametrize("name", FITTED_ON_VALIDATION)
def test_what_is_fitted_on_validation_is_fitted_on_the_half_that_the_file_names(folder, name):
    """The other half calibrates: the guarantee of the threshold needs images that the detector never saw."""
    scorer = deployed(folder, name)
    settings = scorer.calibrated.detector.settings
    detector = make_detector(name, settings, seed=0, device="cpu")
    if name in NETWORK:
        images = load_tensors(folder / "digits.safetensors")[0]
        view = open_model(
            load_model(folder / "classifier-0.safetensors")[0], mean=[0.3], std=[0.37], device="cpu"
        )
        half = images["validation.images"][::2]
        detector.fit(view, {"train": images["train.images"], "validation": half})
        found = aurocs(folder, lambda images: detector.score(view, images))
    else:
        file = read_embeddings(folder / "e", "classifier", 0)
        half = part_of(file.outputs("digits", "validation"), slice(0, None, 2))
        detector.fit(file.outputs("digits", "train"), half)
        inside = detector.score(file.outputs("digits", "test"))
        found = {ood: ood_metrics(inside, detector.score(file.outputs(ood, "test")))["auroc"] for ood in OOD}
    assert found == pytest.approx(aurocs(folder, lambda images: scorer.decide(images).scores), abs=1e-9)
    entry = load_tensors(folder / "d.safetensors")[1]["detectors"][0]
    assert entry["fitted_on"].endswith("images 1, 3, 5, … of digits.validation (50)")


def test_to_choose_on_the_spot_gives_what_the_stages_chose(folder):
    params = write_params(folder / "choose.yaml")
    text = params.read_text()
    for stage in ("posthoc", "ssd", "network"):
        sections = {}
        for line in as_yaml(SECTIONS[stage]):
            key, _, rest = line.strip().partition(": ")
            sections.setdefault(key, []).append(rest.strip("{}"))
        lines = [
            f"  {key}: {values[0] if stage == 'ssd' else '{' + ', '.join(values) + '}'}\n"
            for key, values in sections.items()
        ]
        text += f"{stage}:\n{''.join(lines)}"
    params.write_text(text)
    for name in ("knn", "ash", "ssd", "odin"):
        expected = deployed(folder, name).calibrated.detector.settings
        scorer = deployed(folder, name, choose=None, params=params)
        assert scorer.calibrated.detector.settings == expected
        assert "auto" not in vars(expected).values()
    scorer = deployed(folder, "ash", choose=None, params=params, set="ash.variant=b")
    assert scorer.calibrated.detector.settings.variant == "b"
    sources = scorer.calibrated.origins["ash"].sources
    assert sources["variant"] == "given" and sources["pruned"].startswith("highest mean AUROC of digits")
    assert np.isfinite(scorer.calibrated.calibration).all()


def test_auto_is_deployed_unless_another_is_named(folder, capsys):
    content = json.loads((folder / "results/posthoc/0.json").read_text())
    members = content["chosen"]["classifier.auto.members"]["value"]
    scorer = deployed(folder, "knn", detector=[])
    assert list(scorer.calibrated.detectors) == members
    said = capsys.readouterr().out
    assert said.startswith(
        f"auto: {scorer.calibrated.name} (stage posthoc, highest mean AUROC of digits.valid"
    )
    assert "at most 3, each raising it by 0.001 or more)." in said.splitlines()[0]


@pytest.mark.parametrize(
    "name, members, by",
    [("pair", ["mahalanobis", "energy"], "sum"), ("three", ["knn", "msp", "nci"], "fisher")],
)
def test_a_combination_of_the_tables_is_that_of_its_detectors(folder, capsys, name, members, by):
    scorer = deployed(folder, "knn", detector=name)
    assert f"{name}: {' + '.join(members)} by {by} (stage posthoc, params)." in capsys.readouterr().out
    named = deployed(folder, "knn", detector=members, combine=by)
    images = load_tensors(folder / "heldout.safetensors")[0]["test.images"]
    scores = scorer.decide(images).scores
    np.testing.assert_array_equal(scores, named.decide(images).scores)
    assert scorer.calibrated.threshold == named.calibrated.threshold
    settings = {one: scorer.calibrated.detectors[one].settings for one in members}
    assert settings == {one: deployed(folder, one).calibrated.detector.settings for one in members}
    # the table's are standardised by all of validation, these by half of it; the other half calibrates
    found = aurocs(folder, lambda images: scorer.decide(images).scores)
    content = json.loads((folder / "results/posthoc/0.json").read_text())
    row = content["models"]["classifier"][name]
    assert found == pytest.approx({ood: row[ood]["auroc"] for ood in OOD}, abs=0.03)


def test_a_combination_that_cannot_be_deployed_says_why(folder, capsys):
    def refused(model="classifier", **changes):
        values = {
            "model": folder / f"{model}-0.safetensors", "embeddings": folder / f"e/{model}.safetensors",
            "alpha": 0.05, "results": folder / "results", "params": folder / "combined.yaml",
            "out": folder / "none.safetensors",
        }  # fmt: skip
        assert call(deploy.main, **values | changes) == 1 and not (folder / "none.safetensors").exists()
        return capsys.readouterr().err

    lacking = refused("stochastic", detector="pair")
    assert "pair is left out for model 'stochastic': it combines energy, but the model lacks what" in lacking
    assert "unknown detector 'paar' (did you mean 'pair'?); known: adascale_a" in refused(detector="paar")
    two = refused(detector=["pair", "knn"], combine="sum")
    assert "--detector pair: no detector; a combination cannot be combined" in two
    assert "--combine needs two or more detectors" in refused(combine="sum")
    assert "chooses the members of 'auto'; omit --choose" in refused(choose=None)
    assert "unknown detector 'paar'" in refused(detector="paar", choose=None)
    missing = refused(results=folder / "nowhere")
    assert "nowhere/posthoc/0.json: no such file, so auto of model 'classifier' was not measured" in missing
