"""BYOL, DINO and rotation: what the teacher does, what is frozen, and closed forms."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sslood.data.images.rotations import rotations
from sslood.nets.objectives.byol import byol
from sslood.nets.objectives.dino import Prototypes, dino, prototypes_used
from sslood.nets.objectives.rotpred import RotPred, RotPredSettings
from sslood.nets.selfsup.teacher import teacher_momentum
from tests.nets.selfsup.test_objectives import build, views


def unit(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_byol_is_0_for_agreement_whatever_the_length_and_8_for_opposites():
    p, y = unit(5, 4, 0), unit(5, 4, 1)
    assert byol(p, y, 3 * y, 2 * p).item() == pytest.approx(0, abs=1e-12)
    assert byol(p, y, -y, -p).item() == pytest.approx(8)
    assert byol(p, y, y, p).item() == pytest.approx(byol(y, p, p, y).item())


def test_dino_of_equal_logits_is_the_entropy_of_the_uniform():
    flat = torch.zeros(3, 8, dtype=torch.float64)
    loss = dino(flat, flat, flat, flat, torch.zeros(8), 0.1, torch.tensor(0.04))
    assert loss.item() == pytest.approx(math.log(8))


def test_prototypes_are_torchs_weight_norm_with_lengths_1():
    prototypes = Prototypes(4, 6).double()
    layer = torch.nn.Linear(4, 6, bias=False).double()
    layer.weight.data = prototypes.weight.data.clone()
    layer = torch.nn.utils.parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.fill_(1)
    x = unit(5, 4, 0)
    torch.testing.assert_close(prototypes(x), layer(x / x.norm(dim=1, keepdim=True)))


@pytest.mark.parametrize("step, expected", [(0, 0.99), (50, 0.995), (100, 1.0)])
def test_the_momentum_rises_to_1_by_a_cosine(step, expected):
    assert teacher_momentum(0.99, step, 100) == pytest.approx(expected)
    closed = 1 - (1 - 0.99) * (math.cos(math.pi * step / 100) + 1) / 2  # Grill et al. 2020, section 3.3
    assert teacher_momentum(0.99, step, 100) == pytest.approx(closed, abs=1e-15)


@pytest.mark.parametrize("name", ["byol", "dino"])
def test_the_teacher_starts_as_the_student_and_follows_its_weights(name):
    backbone, objective = build(name, ema=0.9)
    before = copy.deepcopy(objective.teacher.networks[0])
    for ours, theirs in zip(before.parameters(), backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.add_(1)
    objective.after_step(backbone, 5, 10)
    m = teacher_momentum(0.9, 5, 10)
    followed = objective.teacher.networks[0].parameters()
    for old, new, student in zip(before.parameters(), followed, backbone.parameters(), strict=True):
        torch.testing.assert_close(new, m * old + (1 - m) * student)
    assert any(key.startswith("teacher.") for key in objective.state_dict())


def test_dinos_prototypes_wait_and_the_teachers_temperature_rises():
    backbone, objective = build("dino", teacher_temperature=0.08, temperature_epochs=4)
    images, labels = views()
    temperatures = []
    for epoch in range(6):
        objective.before_epoch(epoch, torch.Generator())
        objective.prototypes.weight.grad = None
        objective(backbone, images, labels)[0].backward()
        assert (objective.prototypes.weight.grad is None) == (epoch < 1)
        temperatures.append(objective.temperature.item())
    assert temperatures == pytest.approx(np.append(np.linspace(0.04, 0.08, 4), [0.08] * 2))  # as the authors'


def test_dinos_prototypes_start_as_a_linear_layer_does():
    """Their length does not show in the loss, but the longer they are the slower they turn."""
    theirs = weight_norm(nn.Linear(64, 500, bias=False)).parametrizations.weight.original1
    ours = Prototypes(64, 500).weight
    for rows in (theirs, ours):
        assert rows.norm(dim=1).mean().item() == pytest.approx(3**-0.5, rel=0.02)


def test_prototypes_in_use():
    logits = torch.eye(5) * 100
    assert prototypes_used(logits[:1].expand(7, 5)).item() == pytest.approx(1)
    assert prototypes_used(logits[:3]).item() == pytest.approx(3)
    assert prototypes_used(torch.zeros(4, 5)).item() == pytest.approx(5)


def test_dinos_centre_is_the_moving_mean_of_the_teachers_logits():
    backbone, objective = build("dino")
    images, labels = views()
    twin = copy.deepcopy(objective.teacher)
    objective(backbone, images, labels)
    mean = torch.cat([twin(view) for view in images]).mean(0)
    torch.testing.assert_close(objective.centre, 0.1 * mean)
    assert "centre" in objective.state_dict()


def test_rotations_are_quarter_turns():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    turned = rotations(x)
    assert torch.equal(turned[0], x[0])
    assert turned[1, 0].tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
    assert torch.equal(turned[2], x[0].flip(1, 2))
    assert torch.equal(turned[3], turned[1].flip(1, 2))


class Sides(torch.nn.Module):
    """Features of an image: the brightness of its top, left, bottom and right side, and of its middle."""

    feature_dim = 5

    def forward(self, x):
        sides = [x[..., 0, :], x[..., :, 0], x[..., -1, :], x[..., :, -1], x[..., 1:-1, 1:-1].flatten(2)]
        return torch.stack([side.mean((1, 2)) for side in sides], 1)


def test_rotpred_is_0_for_who_sees_turn_and_class_and_counts_each_by_its_weight():
    images, labels = torch.zeros(6, 1, 6, 6), torch.tensor([0, 1, 1, 0, 1, 0])
    images[:, :, 0, 1:-1] = 1.0  # the bright side turns anticlockwise: top, left, bottom, right
    images[:, :, 1:-1, 1:-1] = labels.view(-1, 1, 1, 1).float()
    objective = RotPred(Sides(), RotPredSettings(weight=0.5), classes=2)
    with torch.no_grad():
        for head in (objective.head, objective.rotation):
            head.weight.zero_()
            head.bias.zero_()
    loss, terms = objective(Sides(), [images], labels)
    assert terms["classes"].item() == pytest.approx(math.log(2))
    assert loss.item() == pytest.approx(math.log(2) + 0.5 * math.log(4))
    with torch.no_grad():
        objective.rotation.weight[:, :4] = 100 * torch.eye(4)
        objective.head.weight[:, 4] = torch.tensor([-100.0, 100.0])
        objective.head.bias[:] = torch.tensor([50.0, -50.0])
    loss, terms = objective(Sides(), [images], labels)
    assert loss.item() == pytest.approx(0, abs=1e-6) and terms["accuracy"].item() == 1
