"""The leave-out ensemble on small made networks: perturbation, votes, the choice of epsilon."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from sslood.core.errors import InputError
from sslood.ood.kit.perturbation import choose_epsilon, gradient_sign, perturb
from sslood.views.ensemble import EnsembleSettings, Member, Votes, accuracy, ensemble_votes, score_rows

MEAN, STD = [0.4, 0.5], [0.2, 0.5]


def network(seed, outputs=3):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, outputs))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval().requires_grad_(False)


MEMBERS = [Member(network(k), [c for c in range(4) if c != k], MEAN, STD) for k in range(4)]
IMAGES = np.random.default_rng(0).integers(0, 256, size=(300, 2, 5, 5), dtype=np.uint8)


def test_sign_of_the_gradient_by_finite_differences():
    model = network(0).double()
    images = torch.from_numpy(IMAGES[:2] / 255.0)
    sign, logits = gradient_sign(model, images, 1000.0)
    label, step = logits.argmax(1), 1e-5
    for image in range(2):
        for c, i, j in np.ndindex(2, 5, 5):
            losses = []
            for side in (step, -step):
                moved = images[image : image + 1].clone()
                moved[0, c, i, j] += side
                losses.append(
                    nn.functional.cross_entropy(model(moved) / 1000, label[image : image + 1]).item()
                )
            assert np.sign(losses[0] - losses[1]) == sign[image, c, i, j].item()


def test_perturbation_makes_the_prediction_surer_in_pixel_units():
    model = network(1)
    images = torch.from_numpy(IMAGES).float() / 255
    sign, logits = gradient_sign(model, images, 1000.0)
    moved = perturb(images, sign, 0.002, STD)
    step = (moved - images).abs().amax(dim=(0, 2, 3))
    np.testing.assert_allclose(step * torch.tensor(STD), 0.002, rtol=1e-3)
    before, after = (logits.softmax(1).max(1).values, model(moved).softmax(1).max(1).values)
    assert (after > before).all()


def reference(member, images, temperature, epsilon):
    mean, std = (torch.tensor(v).view(1, 2, 1, 1) for v in (MEAN, STD))
    x = ((torch.from_numpy(images).float() / 255 - mean) / std).requires_grad_(True)
    logits = member.forward(x)
    nn.functional.cross_entropy(logits / temperature, logits.argmax(1), reduction="sum").backward()
    moved = x.detach() - epsilon / std * x.grad.sign()
    p = softmax(member.forward(moved).double().numpy() / temperature, axis=1)
    return p.max(1), -(p * np.log(p)).sum(1), p


@pytest.mark.parametrize("setting", [(1000.0, 0.003), (1.0, 0.0)])
def test_votes_equal_the_formula(setting):
    (votes,) = ensemble_votes(MEMBERS, IMAGES, [setting], classes=4, gradient_temperature=1000.0)
    parts = [reference(member, IMAGES, 1000.0 if setting[1] else 1.0, setting[1]) for member in MEMBERS]
    sizes = np.array([len(member.head_classes) for member in MEMBERS])
    uniform = (1 / sizes - np.log(sizes)).sum()  # of the uniform distributions, from which votes are measured
    np.testing.assert_allclose(votes.score, -sum(p[0] - p[1] for p in parts) + uniform, rtol=0, atol=1e-6)
    whole = np.zeros((300, 4))
    for member, (_, _, p) in zip(MEMBERS, parts, strict=True):
        whole[:, member.head_classes] += p
    np.testing.assert_allclose(votes.probabilities, whole, atol=1e-6)
    np.testing.assert_allclose(votes.probabilities.sum(1), 4)


def test_left_out_classes_have_probability_zero():
    (votes,) = ensemble_votes(MEMBERS[:1], IMAGES, [(1.0, 0.0)], classes=4, gradient_temperature=1.0)
    assert (votes.probabilities[:, 0] == 0).all()


def test_several_settings_equal_one_by_one_and_batches_do_not_matter():
    settings = [(1000.0, 0.0), (1000.0, 0.002), (1.0, 0.0)]
    together = ensemble_votes(MEMBERS, IMAGES, settings, classes=4, gradient_temperature=1000.0)
    for setting, votes in zip(settings, together, strict=True):
        (alone,) = ensemble_votes(MEMBERS, IMAGES, [setting], classes=4, gradient_temperature=1000.0)
        np.testing.assert_allclose(alone.score, votes.score, atol=1e-9)
    (few,) = ensemble_votes(MEMBERS, IMAGES[:7], settings[1:2], classes=4, gradient_temperature=1000.0)
    np.testing.assert_allclose(few.score, together[1].score[:7], atol=1e-7)


def test_epsilon_is_the_best_and_the_smallest_of_equals():
    inside = np.array([[0.0, 1.0]] * 4)
    outside = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [0.0, 0.0]])
    best, aurocs = choose_epsilon([0.0, 0.004, 0.002, 0.001], inside, outside)
    assert best == 0.002
    assert aurocs == {"0.0": 0.5, "0.004": 1.0, "0.002": 1.0, "0.001": 0.25}
    for wrong, says in (((-0.1,), "epsilons must be at least 0"), ((), "at least one step")):
        with pytest.raises(InputError, match=says):
            EnsembleSettings(temperature=1.0, epsilons=wrong, precision="float32")


def test_in_double_precision_the_votes_hardly_change():
    wide = [replace(one, forward=copy.deepcopy(one.forward).double(), dtype=torch.float64) for one in MEMBERS]
    plan = {"classes": 4, "gradient_temperature": 1.0}
    (single,), (double,) = (ensemble_votes(ones, IMAGES, [(1.0, 0.0)], **plan) for ones in (MEMBERS, wide))
    np.testing.assert_allclose(single.score, double.score, atol=1e-5)
    assert not np.array_equal(single.score, double.score)


def test_rows_and_accuracy():
    one = Votes(np.array([0.9, 0.5]), np.array([0.1, 0.7]), np.array([[0.9, 0.1], [0.4, 0.6]]))
    rows = score_rows(one, one)
    np.testing.assert_allclose(rows["eloc"], rows["eloc_max"] + rows["eloc_entropy"])
    assert rows["eloc"][1] > rows["eloc"][0], "the unsure image is more OOD"
    assert accuracy(one, np.array([0, 0])) == 0.5
