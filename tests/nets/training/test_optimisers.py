import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.nets.training.optimisers import build_optimiser, orthogonalised, set_learning_rate


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)).double()


def gradients(model, step):
    rng = np.random.default_rng(step)
    return [torch.from_numpy(rng.normal(size=tuple(p.shape))) for p in model.parameters()]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_lars_against_a_plain_loop(nesterov, zeros):
    """With weights of zeros and gradients of zeros among them too, whose quotient is not defined."""
    model, lr, decay, momentum, eta = network(), 0.4, 1e-2, 0.9, 0.02
    if zeros:
        nn.init.zeros_(model[3].weight)
    weights = [p.detach().numpy().copy() for p in model.parameters()]
    velocity = [np.zeros_like(w) for w in weights]
    optimiser = build_optimiser(
        "lars", model, lr=lr, weight_decay=decay, momentum=momentum, nesterov=nesterov
    )
    for step in range(5):
        rate = lr / (step + 1)
        set_learning_rate(optimiser, rate)
        pairs = zip(model.parameters(), gradients(model, step), strict=True)
        for i, (parameter, gradient) in enumerate(pairs):
            gradient = gradient * (step != 2 or not zeros)
            parameter.grad = gradient.clone()
            g = gradient.numpy()
            if g.ndim > 1:
                size, slope = np.linalg.norm(weights[i]), np.linalg.norm(g)
                quotient = eta * size / (slope + decay * size) / rate if size and slope else 1
                g = (g + decay * weights[i]) * min(quotient, 1)
            velocity[i] = momentum * velocity[i] + g
            weights[i] = weights[i] - rate * (g + momentum * velocity[i] if nesterov else velocity[i])
        optimiser.step()
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fused", [False, True])
def test_weights_may_get_their_first_gradient_later_than_others(fused, monkeypatch):
    """As DINO's prototypes after its frozen epochs; torch's fused SGD, its choice on a card, refuses them."""
    monkeypatch.setattr("torch.Tensor.is_cuda", fused)
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimiser = build_optimiser("sgd", [first, second], lr=0.5, weight_decay=0.0, momentum=0.9)
    for both in (False, True):
        first.grad, second.grad = torch.ones(3), torch.ones(3) if both else None
        optimiser.step()
    assert second.tolist() == pytest.approx([1 - 0.5 * 1.9] * 3)


def test_lars_leaves_weights_of_zero_norm_free_to_move():
    layer = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(layer.weight)
    optimiser = build_optimiser("lars", layer, lr=0.5, weight_decay=0.0, momentum=0.0)
    layer.weight.grad = torch.ones(2, 2)
    optimiser.step()
    assert torch.equal(layer.weight.detach(), torch.full((2, 2), -0.5))


def test_lars_state_goes_through_a_state_dict():
    def steps(model, optimiser, numbers):
        for step in numbers:
            for parameter, gradient in zip(model.parameters(), gradients(model, step), strict=True):
                parameter.grad = gradient
            optimiser.step()

    options = {"lr": 0.1, "weight_decay": 1e-3, "momentum": 0.9}
    whole, half = network(), network()
    steps(whole, build_optimiser("lars", whole, **options), range(6))
    first = build_optimiser("lars", half, **options)
    steps(half, first, range(3))
    second = build_optimiser("lars", half, **options)
    second.load_state_dict(first.state_dict())
    steps(half, second, range(3, 6))
    for a, b in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.1, betas=(0.9, 0.999), weight_decay=1e-3)),
    ],
)
def test_sgd_and_adamw_step_like_torchs(name, theirs):
    """The same bytes after some steps, an interruption, and more steps with another rate."""
    ours, reference = network(), network()
    optimisers = (
        build_optimiser(name, ours, lr=0.1, weight_decay=1e-3, momentum=0.9),
        theirs(reference.parameters()),
    )
    for step in range(6):
        for model, optimiser in zip((ours, reference), optimisers, strict=True):
            set_learning_rate(optimiser, 0.1 / (step + 1))
            optimiser.zero_grad()
            assert all(parameter.grad is None for parameter in model.parameters())
            for parameter, gradient in zip(model.parameters(), gradients(model, step), strict=True):
                parameter.grad = gradient
            optimiser.step()
            optimiser.load_state_dict(optimiser.state_dict())
    for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 2, 3, 3)])
def test_muons_update_has_the_singular_values_of_its_polynomial(shape):
    """By NumPy's decomposition: the odd polynomial acts on the singular values alone."""
    gradient = np.random.default_rng(0).normal(size=shape)
    u, s, v = np.linalg.svd(gradient.reshape(shape[0], -1), full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimiser = build_optimiser("muon", [weight], lr=0.5, weight_decay=0.0, momentum=0.9)
    weight.grad = torch.from_numpy(gradient)
    optimiser.step()
    expected = -0.5 * 0.2 * max(len(u), v.shape[1]) ** 0.5 * (u * s) @ v
    assert np.allclose(weight.detach().numpy().reshape(shape[0], -1), expected, atol=1e-5)


def test_muon_multiplies_no_subnormal_numbers():
    """The momentum of a unit that is dead falls without end; products with it are slow and change nothing."""
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 8))).float()
    dead = matrix.clone()
    dead[2], dead[4] = 1e-42, 1e-30
    none = matrix.clone()
    none[[2, 4]] = 0
    assert torch.equal(orthogonalised(dead), orthogonalised(none))
    assert (orthogonalised(none)[[2, 4]] == 0).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_steps_like_torchs_two_optimisers(nesterov):
    """torch's Muon computes in bfloat16, hence the tolerance; AdamW has the vectors."""
    ours, reference = network(), network()
    matrices = [p for p in reference.parameters() if p.ndim == 2]
    vectors = [p for p in reference.parameters() if p.ndim < 2]
    how = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov}
    theirs = (
        torch.optim.Muon(matrices, **how, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, 0.1, betas=(0.9, 0.95), weight_decay=0.0),
    )
    mine = build_optimiser("muon", ours, **how)
    for step in range(6):
        for model, optimisers in ((ours, (mine,)), (reference, theirs)):
            for parameter, gradient in zip(model.parameters(), gradients(model, step), strict=True):
                parameter.grad = gradient
            for optimiser in optimisers:
                set_learning_rate(optimiser, 0.1 / (step + 1))
                optimiser.step()
                optimiser.load_state_dict(optimiser.state_dict())
    for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
        tolerance = {"rtol": 1e-9} if a.ndim < 2 else {"atol": 0.01}
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), **tolerance)


def test_training_does_not_import_torchs_compiler():
    """It takes 2 to 3 s, in each training stage, where nothing is compiled."""
    code = """
import importlib, sys, torch
for stage in ("pretrain", "train", "energy", "leaveout", "embed", "ensemble", "posthoc"):
    importlib.import_module(f"stages.{stage}")
from tests.kit.registries import OBJECTIVES, objective_class
from sslood.nets.training.optimisers import NAMES, build_optimiser
for name in OBJECTIVES:
    objective_class(name)
for name in NAMES:
    model = torch.nn.Linear(3, 2)
    optimiser = build_optimiser(name, model, lr=0.1, weight_decay=0.1, momentum=0.9)
    model(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    optimiser.load_state_dict(optimiser.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].requires_grad_(False)
    optimiser = build_optimiser("sgd", model, lr=0.1, weight_decay=0.0, momentum=0.0)
    assert len(optimiser.param_groups[0]["params"]) == 4


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="unknown optimiser 'adam'; known: adamw, lars, muon, sgd"):
        build_optimiser("adam", network(), lr=0.1, weight_decay=0.0, momentum=0.9)
