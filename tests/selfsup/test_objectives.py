import pytest
import torch

from stages.core.cli import strict
from stages.core.errors import InputError
from stages.models.build import build_backbone, seeded
from stages.selfsup.registry import OBJECTIVES, objective_class

CONSTANTS = {
    "scratch": {},
    "simclr": {"projector": [8, 4], "temperature": 0.5},
    "supcon": {"projector": [8, 4], "temperature": 0.5},
    "barlow_twins": {"projector": [8, 8], "off_diagonal": 0.005, "scale": 0.1},
    "vicreg": {"projector": [8, 8], "invariance": 25, "variance": 25, "covariance": 1},
}


def build(name, classes=3, **changes):
    kind = objective_class(name)
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        constants = strict(kind.Constants, {**CONSTANTS[name], **changes}, f"objectives.{name}")
        return backbone, kind(backbone, constants, classes=classes)


def views():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 1, 8, 8, generator=generator) for _ in range(2)], torch.tensor([0, 1, 2, 0, 1, 2])


def test_every_objective_is_tried_here():
    assert set(CONSTANTS) == set(OBJECTIVES)


@pytest.mark.parametrize("name", [name for name in CONSTANTS if name != "scratch"])
def test_loss_reaches_every_weight_and_stays_float32_under_autocast(name):
    backbone, objective = build(name)
    images, labels = views()
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = objective(backbone, images, labels)
    assert loss.dtype == torch.float32 and loss.ndim == 0
    assert "spread" in terms and all(term.ndim == 0 for term in terms.values())
    loss.backward()
    for module in (backbone, objective):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", [name for name in CONSTANTS if name != "scratch"])
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
    with pytest.raises(InputError, match="temperature is 0.0"):
        build("simclr", temperature=0)


def test_supcon_needs_two_classes():
    with pytest.raises(InputError, match="single class; use simclr"):
        build("supcon", classes=1)


def test_a_projector_without_widths_is_refused():
    with pytest.raises(InputError, match="projector"):
        build("barlow_twins", projector=[])
