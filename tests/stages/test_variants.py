"""Named variants of an objective: their constants, the stage that trains them, and what it need not train."""

from functools import cache, partial

import numpy as np
import pytest
import yaml

from sslood.cli.params import check_params
from sslood.core.closure import TOP
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.settings import load_params
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.selfsup.variants import constants_of
from sslood.nets.training import checkpoint
from stages import pretrain, variants
from tests.kit.small import call, write_sets
from tests.kit.training import PRETRAIN

GAUSSIAN = {
    "projector": [16], "invariance": 25.0, "variance": 25.0, "covariance": 1.0, "scale": 0.1,
    "samples": 2, "beta": 0.0001, "components": 0, "kl": "closed", "sigma": "diagonal",
}  # fmt: skip
SECTION = {
    "bayes_h_vicreg": {**GAUSSIAN, "augment": {"jitter": 0.5, "pad": 1}},
    "b01": {"of": "bayes_h_vicreg", "beta": 0.01},
    "wide": {"of": "bayes_h_vicreg", "projector": [32], "lr": 0.1, "augment": {"jitter": 0.0}},
    "same": {"of": "bayes_h_vicreg"},
    "alone": {"of": "simclr", "projector": [16], "temperature": 0.2},
}
CLOSURE = cache(checkpoint.import_closure)  # no code changes while tests run
KINDS = ["bayes_h_vicreg", "simclr"]


def test_a_variant_has_the_constants_of_its_objective_but_for_its_own():
    read = partial(constants_of, sections=SECTION, kinds=KINDS, where="params.yaml:objectives")
    base = SECTION["bayes_h_vicreg"]
    assert read("b01") == ("bayes_h_vicreg", {**base, "beta": 0.01})
    assert read("same") == read("bayes_h_vicreg") == ("bayes_h_vicreg", base)
    own = {"projector": [32], "lr": 0.1, "augment": {"jitter": 0.0, "pad": 1}}
    assert read("wide") == ("bayes_h_vicreg", {**base, **own})
    assert read("alone") == ("simclr", {"projector": [16], "temperature": 0.2})


@pytest.mark.parametrize(
    ("name", "section", "says"),
    [
        ("b1", None, "objectives: there is no objective 'b1' (did you mean 'b01'?); known: bayes_h_vicreg"),
        (
            "b01",
            {"beta": 0.01},
            "objectives.b01: missing key 'of', the objective whose variant it is: bayes_h",
        ),
        ("b01", {"of": "vicreg_h"}, "objectives.b01.of: 'vicreg_h' is no objective"),
        ("b01", {"of": "same"}, "objectives.b01.of: 'same' is no objective"),
        ("simclr", {"of": "simclr"}, "objectives.simclr: 'simclr' is an objective; give its variant another"),
        ("b01", [1], "objectives.b01: must hold keys and values, found [1]"),
        ("b01", {"of": "bayes_h_vicreg", "augment": 3}, "objectives.b01.augment: must hold keys and values"),
    ],
)
def test_a_wrong_variant_is_named(name, section, says):
    sections = SECTION if section is None else {**SECTION, name: section}
    with pytest.raises(InputError) as caught:
        constants_of(name, sections, KINDS, "params.yaml:objectives")
    assert str(caught.value).startswith(f"params.yaml:{says}")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs a stage on the digits with a section `objectives`, and gives the model."""
    write_sets(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    monkeypatch.setattr(checkpoint, "import_closure", CLOSURE)

    def train(name, objectives, *, stage=variants, out="out", **changes):
        params = {
            "objectives": objectives, "backbones": {"resnet": {"depth": 8, "width": 4}},
            "augment": {"pretrain": {"jitter": 0.8, "brightness": 0.4}},
        }  # fmt: skip
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        own = {"variant": name, "objectives": "params.yaml:objectives"}
        if stage is pretrain:
            own = {"objective": name, "constants": f"params.yaml:objectives.{name}"}
        status = call(
            stage.main, **own, **{**PRETRAIN, "epochs": 1, "batch_size": 200, **changes}, seed=0,
            backbone="resnet", sizes="params.yaml:backbones.resnet", id_set="digits.safetensors",
            recipe="params.yaml:augment.pretrain", out=f"{out}.safetensors", out_curves=f"{out}.csv",
        )  # fmt: skip
        assert status == 0
        tensors, metadata = load_tensors(tmp_path / f"{out}.safetensors", kind="model")
        return {key: np.array(array) for key, array in tensors.items()}, metadata

    return train


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_a_variant_is_the_objective_with_these_constants(run, tmp_path):
    changed = {**SECTION["bayes_h_vicreg"], "beta": 0.01}
    plain, about = run("bayes_h_vicreg", {"bayes_h_vicreg": changed}, stage=pretrain, out="plain")
    named, own = run("b01", SECTION)
    assert equal(plain, named)
    assert own == {**about, "name": "b01"} and own["settings"]["constants"]["beta"] == 0.01
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_only_what_a_change_concerns_is_trained_again(run, monkeypatch, capsys, tmp_path):
    trained, train = [], Pretraining.run
    monkeypatch.setattr(Pretraining, "run", lambda self, c: trained.append(self.label) or train(self, c))
    first, about = run("b01", SECTION)
    # another variant, another objective's constants, and the same constants under another name
    assert run("b01", {**SECTION, "more": {"of": "simclr"}, "vicreg": {}})[1] == about
    tensors, metadata = run("other", {**SECTION, "other": SECTION["b01"]})
    assert equal(tensors, first) and metadata["name"] == "other"
    assert "other, pretrained before with the same settings" in capsys.readouterr().out
    assert trained == ["pretrain b01-0"]
    base = {**SECTION["bayes_h_vicreg"], "samples": 1}
    assert not equal(run("b01", {**SECTION, "bayes_h_vicreg": base})[0], first)
    kept = sorted((tmp_path / "scratch/pretrained").glob("*.safetensors"))
    assert len(kept) == len(trained) == 2
    for file in kept:  # what a power cut leaves
        file.write_bytes(file.read_bytes()[:1000])
    assert equal(run("b01", SECTION)[0], first)


ASKED = {"runs.variants": ["b"], "runs.inits": ["b", "scratch"], "evaluate.models": ["b", "classifier_b"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (ASKED, ""),
        ({**ASKED, "runs.variants": ["c"]}, "params.yaml:objectives: there is no objective 'c'"),
        ({**ASKED, "objectives.b": {"of": "simclr", "temperatur": 1}}, "unknown key 'temperatur'"),
        ({**ASKED, "objectives.b": {"of": "simclr", "lr": -1}}, "pretrain.lr must be at least 0, found -1"),
        ({"runs.objectives": ["scratch", "simclr", "barlow_twins", "b"]}, "objectives.b: is a variant of an"),
        (
            {"runs.variants": ["simclr"]},
            "objectives.simclr: is no variant, since it lacks `of`; list it under",
        ),
        ({"evaluate.models": ["b"]}, "evaluate.models: no stage makes 'b'"),
    ],
)
def test_the_params_are_checked_with_the_variants(tmp_path, changes, says):
    """A variant is a model like any other: a classifier starts from it, and it is evaluated."""
    params = load_params(TOP / "params.yaml")
    for key, value in {"objectives.b": {"of": "simclr", "temperature": 0.5}, **changes}.items():
        section, _, name = key.partition(".")
        params[section] = {**params[section], name: value}
    for file, content in {"params": params, "dvc": load_params(TOP / "dvc.yaml")}.items():
        (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(content))
    said = ""
    try:
        check_params(tmp_path / "params.yaml")
    except InputError as error:
        said = str(error)
    assert (says in said) if says else not said, said
