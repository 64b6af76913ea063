from dataclasses import replace

import pytest
import torch
import yaml

from sslood.core.closure import TOP as ROOT
from sslood.core.closure import import_closure
from sslood.core.errors import InputError
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.selfsup.settings import PretrainSettings, recipes_of, settings_of
from tests.kit.registries import OBJECTIVES, objective_class
from tests.kit.training import PROFILE, TRAINED, objective_settings

MIXTURE = {"components": 2, "kl": "monte_carlo"}
FORMS = [(name, {}) for name in TRAINED] + [
    (name, changes)
    for name in TRAINED
    if "beta" in PROFILE[name]
    for changes in (MIXTURE, {"sigma": "single"})
]


def build(name, classes=3, **changes):
    kind = objective_class(name)
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        objective = kind(backbone, objective_settings(name, **changes), classes=classes)
    objective.before_epoch(1, torch.Generator().manual_seed(0))
    objective.before_batch(6)
    return backbone, objective


def views():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 1, 8, 8, generator=generator) for _ in range(2)], torch.tensor([0, 1, 2, 0, 1, 2])


def test_every_objective_has_its_section_in_the_profile_and_is_run_there():
    profile = yaml.safe_load((ROOT / "profiles/objectives.yaml").read_text())
    assert set(PROFILE) == set(profile["runs"]["objectives"]) == set(OBJECTIVES)
    assert set(profile["evaluate"]["models"]) >= set(OBJECTIVES)


@pytest.mark.parametrize("profile", ["params.yaml", "profiles/objectives.yaml", "profiles/cifar10.yaml"])
def test_every_section_of_the_profiles_fits_its_objective(profile):
    base, own = (yaml.safe_load((ROOT / name).read_text()) for name in ("params.yaml", profile))
    shared = {**base["pretrain"], **own.get("pretrain", {})}
    views = {**base, **own}["augment"]["pretrain"]
    assert set(own["runs"].get("objectives", [])) <= set(own["objectives"]) <= set(OBJECTIVES)
    for name, section in own["objectives"].items():
        training, _ = settings_of(shared, section, objective_class(name).Settings, f"{profile}:{name}")
        assert isinstance(training, PretrainSettings)
        recipes_of(views, "augment.pretrain", section.get("augment"), f"{profile}:{name}")


def test_an_objective_may_have_views_of_its_own():
    shared = {"crop_scale_min": 0.2, "jitter": 0.8, "grey": 0.2, "second": {"blur": 0.5}}
    first, second = recipes_of(shared, "augment.pretrain")
    assert (first.blur, second.blur) == (0.0, 0.5)
    own = {"crop_scale_min": 0.08, "second": {"solarise": 0.2}}
    mine = recipes_of(shared, "augment.pretrain", own, "objectives.byol.augment")
    assert mine[0] == replace(first, crop_scale_min=0.08)
    assert mine[1] == replace(first, crop_scale_min=0.08, solarise=0.2)  # the shared second view is forgotten
    assert recipes_of(shared, "augment.pretrain", {}, "objectives.byol.augment") == (first, first)


@pytest.mark.parametrize(
    "own, message",
    [
        ({"pad": 4}, "objectives.byol.augment: choose either pad or a crop"),
        ({"second": {"blurr": 1}}, "objectives.byol.augment.second: unknown key 'blurr'"),
        ({"second": 0.2}, "objectives.byol.augment.second: must hold keys and values, found 0.2"),
        ([0.2], r"objectives.byol.augment: must hold keys and values, found \[0.2\]"),
    ],
)
def test_views_that_make_no_sense_are_refused(own, message):
    with pytest.raises(InputError, match=message):
        recipes_of({"crop_scale_min": 0.2}, "augment.pretrain", own, "objectives.byol.augment")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_imports_no_other_objective(name):
    """The stage declares the one file that its item names; what two objectives share lies in another room."""
    files = import_closure(f"sslood.nets.objectives.{name}")
    assert [file.stem for file in files if file.parent.name == "objectives"] == [name]


@pytest.mark.parametrize("name, changes", FORMS)
def test_loss_reaches_every_weight_and_stays_float32_under_autocast(name, changes):
    backbone, objective = build(name, **changes)
    images, labels = views()
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = objective(backbone, images[: objective.views], labels)
    assert loss.dtype == torch.float32 and loss.ndim == 0
    assert "spread" in terms and all(term.ndim == 0 for term in terms.values())
    loss.backward()
    for module in (backbone, objective):
        for key, weight in module.named_parameters():
            trained = not key.startswith("teacher.")
            assert weight.requires_grad == trained == (weight.grad is not None), key
            assert not trained or weight.grad.isfinite().all(), key


@pytest.mark.parametrize("name, changes", FORMS)
def test_float64_is_kept_to_the_end(name, changes):
    """No term passes through float32: then it would equal its own rounding."""
    backbone, objective = build(name, **changes)
    backbone.double(), objective.double()
    objective.before_epoch(1, torch.Generator().manual_seed(0))
    objective.before_batch(6)
    images, labels = views()
    loss, terms = objective(backbone, [image.double() for image in images[: objective.views]], labels)
    assert loss.dtype == torch.float64 and loss.item() != loss.float().item()
    for key, term in terms.items():
        assert key == "accuracy" or term.dtype == torch.float64, key
    assert terms["spread"].item() != terms["spread"].float().item()


@pytest.mark.parametrize("name", ["simclr", "supcon", "barlow_twins", "vicreg"])
def test_each_view_has_its_own_batch_statistics(name):
    images, labels = views()
    backbone, objective = build(name)
    loss, _ = objective(backbone, images, labels)
    again, other = build(name)
    z = [other.projector(again(view)) for view in images]
    torch.testing.assert_close(loss, other.loss(*z, labels)[0])


def test_unknown_names_and_constants_are_refused():
    with pytest.raises(InputError, match="unknown objective 'simcrl'; known: barlow_twins"):
        objective_class("simcrl")
    with pytest.raises(InputError, match="objectives.simclr: unknown key 'temprature'"):
        build("simclr", temprature=0.1)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("simclr", {"temperature": 0}, "objectives.simclr.temperature must be above 0, found 0.0"),
        ("simclr", {"temperature": float("nan")}, "temperature must be above 0, found nan"),
        ("supcon", {"temperature": -1}, "temperature must be above 0, found -1.0"),
        ("barlow_twins", {"projector": []}, "projector must hold at least one width, found none"),
        ("barlow_twins", {"projector": [8, 0]}, "projector must be at least 1, found 0"),
        ("barlow_twins", {"off_diagonal": -1}, "off_diagonal must be at least 0, found -1.0"),
        ("cider", {"weight": -1}, "weight must be at least 0, found -1.0"),
        ("cider", {"ema": 1.0}, "ema must be at least 0 and below 1, found 1.0"),
        ("rotpred", {"weight": -1}, "weight must be at least 0, found -1.0"),
        ("vicreg", {"scale": -1}, "scale must be at least 0, found -1.0"),
        ("bayes_h_vicreg", {"variance": -1}, "variance must be at least 0, found -1.0"),
        ("byol", {"ema": 1.5}, "ema must be at least 0 and at most 1, found 1.5"),
        ("byol", {"projector": [8, 4], "predictor": [8, 5]}, "predictor ends with 5, the projector with 4"),
        ("byol", {"predictor": []}, "objectives.byol: predictor must hold at least one width"),
        ("dino", {"head": [0]}, "head must be at least 1, found 0"),
        ("dino", {"teacher_temperature": 0}, "teacher_temperature must be above 0, found 0.0"),
        ("dino", {"prototypes": 1}, "prototypes must be at least 2, found 1"),
        ("bayes_h_vicreg", {"beta": -0.1}, "objectives.bayes_h_vicreg.beta must be at least 0, found -0.1"),
        ("bayes_h_vicreg", {"beta": float("nan")}, "beta must be at least 0, found nan"),
        ("bayes_z_barlow_twins", {"samples": 0}, "samples must be at least 1, found 0"),
        ("bayes_z_barlow_twins", {"components": -1}, "components must be at least 0, found -1"),
        ("bayes_z_barlow_twins", {"components": 2}, "a mixture has no closed form; use kl: monte_carlo"),
        ("bayes_z_barlow_twins", {"sigma": "full"}, "sigma: must be one of diagonal, single"),
    ],
)  # fmt: skip
def test_constants_that_make_no_sense_are_refused(name, changes, message):
    with pytest.raises(InputError, match=message):
        build(name, **changes)


@pytest.mark.parametrize("name", ["supcon", "supce", "rotpred", "cider"])
def test_labels_of_a_single_class_are_refused(name):
    with pytest.raises(InputError, match="single class; use simclr"):
        build(name, classes=1)
