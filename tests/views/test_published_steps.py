"""Published steps of an ensemble, one for each OOD set: where they stand, what they give, what is refused."""

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from sslood.core.errors import InputError
from sslood.core.settings import load_params
from sslood.ood.kit.results import Results
from sslood.report.frame import is_informed
from sslood.report.published_figures import FOLDER
from sslood.views.ensemble import Setting, evaluate
from sslood.views.published_steps import ROW, add_published, check_steps, read_steps
from studies.plan import read_study
from studies.workspace import params_text
from tests.views.test_ensemble import IMAGES, MEMBERS, score

SETS = {name: {"role": role} for name, role in (("own", "id"), ("a", "near"), ("b", "far"), ("t", "tuning"))}
FILE = {"sets": SETS, "backbones": {"densenet": {}, "wideresnet": {}}}


@pytest.fixture
def written(tmp_path):
    def write(steps):
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump({**FILE, "ensemble_steps": steps}))
        return f"{path}:ensemble_steps"

    return write


def test_steps_are_of_the_backbone_at_the_published_temperature(written):
    where = written({"densenet": {"b": 0.002, "a": 0}})
    check_steps(where, {"id_name": "own"})
    found = read_steps(where, "densenet", SETS, "own")
    assert found == {"b": Setting(1000.0, 0.002), "a": Setting(1000.0, 0.0)}
    assert read_steps(where, "wideresnet", SETS, "own") == read_steps(None, "densenet", SETS, "own") == {}


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ({"densenet": {"c": 0.1}}, ".densenet.c: no set with role near or far has this name; known: a, b"),
        ({"wideresnet": {"t": 0.1}}, ".wideresnet.t: no set with role near or far has this name"),
        ({"densenet": {"a": -0.1}}, ".densenet.a must be at least 0, found -0.1"),
        ({"densenet": {"a": float("nan")}}, ".densenet.a must be at least 0, found nan"),
        ({"densenet": {"a": "much"}}, ".densenet.a: must be of type float, found 'much'"),
        ({"densenet": 0.002}, ".densenet: must map OOD sets to steps, found 0.002; e.g. {far: 0.002}"),
        ({"densnet": {}}, ": 'densnet' is not among `backbones` (did you mean 'densenet'?)"),
        ([0.1], "section 'ensemble_steps' must hold keys and values, found [0.1]"),
    ],
)
def test_wrong_steps_are_named(written, steps, says):
    with pytest.raises(InputError) as caught:
        check_steps(written(steps), {"id_name": "own"})
    assert says in str(caught.value) and "params.yaml" in str(caught.value)


def test_each_set_stands_against_id_images_under_its_own_step():
    """The paper's score from plain formulas; what the OOD images of one set are changes no other's."""
    steps = {"a": Setting(1000.0, 0.003), "b": Setting(1000.0, 0.0)}
    tests = {"own": IMAGES[:100], "a": IMAGES[100:200] // 2, "b": IMAGES[200:] // 3}
    also = {"own": steps.values(), **{name: [one] for name, one in steps.items()}}
    found = evaluate(MEMBERS, None, tests, classes=4, also=also)
    results = Results("ensemble", 0, "own")
    add_published(results, "m", found.swept, steps)
    assert list(results.models["m"]) == [ROW] and results.scores.keys() == {
        f"m.{ROW}.{rest}" for rest in ("own", "own.a", "own.b", "a", "b")
    }
    uniform = 4 * (1 / 3 - np.log(3))  # from which votes are measured
    for name, setting in steps.items():
        inside, outside = (sum(score(m, tests[key], setting) for m in MEMBERS) for key in ("own", name))
        kept = results.scores[f"m.{ROW}.own.{name}"], results.scores[f"m.{ROW}.{name}"]
        np.testing.assert_allclose(kept[0], inside + uniform, atol=2e-6)
        np.testing.assert_allclose(kept[1], outside + uniform, atol=2e-6)
        truth = np.repeat([0, 1], [len(kept[0]), len(kept[1])])
        auroc = roc_auc_score(truth, np.concatenate(kept))
        assert results.models["m"][ROW][name]["auroc"] == pytest.approx(auroc, abs=1e-12)
    both = np.mean([results.scores[f"m.{ROW}.own.{name}"] for name in steps], axis=0)
    np.testing.assert_allclose(results.scores[f"m.{ROW}.own"], both, atol=1e-9)
    assert results.chosen[ROW]["value"]["a"] == {
        "temperature": 1000.0,
        "epsilon": 0.003,
        "target": "predicted",
    }


def test_who_has_seen_the_test_set_competes_with_nobody():
    assert is_informed(ROW) and not is_informed("eloc") and not is_informed("eloc_max")


def test_the_profile_and_its_study_have_the_published_steps():
    published = load_params(FOLDER / "eloc.yaml")["steps"]
    study = read_study("eloc")
    parts = {part.name: yaml.safe_load(params_text(study, part)) for part in study.parts}
    assert {params["id"] for params in parts.values()} == set(published)
    for params in parts.values():
        assert params["ensemble_steps"] == published[params["id"]]


def test_a_study_whose_set_cannot_be_had_forgets_its_step():
    study = read_study("eloc")
    params = yaml.safe_load(params_text(study, study.parts[0], {"lsun_crop": "no such place"}))
    assert "lsun_crop" not in params["sets"] and "isun" in params["sets"]
    for steps in params["ensemble_steps"].values():
        assert len(steps) == 3 and "lsun_crop" not in steps
