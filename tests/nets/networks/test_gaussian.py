"""Gaussians and priors against torch.distributions, integrals, and model files that keep them."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from sslood.core.errors import InputError
from sslood.nets.inference.extract import outputs
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.gaussian import (
    GaussianHead,
    Mixture,
    StandardNormal,
    build_prior,
    kl_monte_carlo,
    kl_standard_normal,
    log_normal,
    sample,
)
from sslood.nets.networks.heads import build_projector
from tests.kit.small import model_card


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mu, log_variance):
    return Independent(Normal(mu, (0.5 * log_variance).exp()), 1)


def mixture(components=3, size=5):
    with seeded(0):
        prior = Mixture(components, size).double()
    prior.weights.data = randn(components, seed=7)
    law = gaussian(prior.mu.detach(), prior.log_variance.detach())
    return prior, MixtureSameFamily(Categorical(logits=prior.weights.detach()), law)


def test_densities_and_the_divergence_equal_torchs():
    mu, log_variance, u = randn(7, 5), randn(7, 5, seed=1), randn(4, 7, 5, seed=2)
    q, standard = gaussian(mu, log_variance), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(log_normal(u, mu, log_variance), q.log_prob(u), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        StandardNormal()(u), Independent(standard, 1).log_prob(u), rtol=1e-12, atol=1e-12
    )
    expected = kl_divergence(q, Independent(standard, 1))
    torch.testing.assert_close(kl_standard_normal(mu, log_variance), expected, rtol=1e-12, atol=1e-12)


def test_the_mixture_is_a_mixture():
    prior, law = mixture()
    u = 2 * randn(4, 7, 5)
    torch.testing.assert_close(prior(u).detach(), law.log_prob(u), rtol=1e-12, atol=1e-12)


def test_the_mixtures_density_integrates_to_one():
    with seeded(1):
        prior = Mixture(4, 2).double()
    prior.weights.data = randn(4)
    axis = torch.linspace(-30, 30, 1201, dtype=torch.float64)
    density = prior(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert density.item() == pytest.approx(1, abs=1e-9)


def test_monte_carlo_comes_to_the_closed_form():
    mu, log_variance = randn(3, 5), randn(3, 5, seed=1)
    u = sample(mu, log_variance, randn(40000, 3, 5, seed=2))
    torch.testing.assert_close(u.mean(0), mu, rtol=0, atol=0.05)
    estimate = kl_monte_carlo(u, mu, log_variance, StandardNormal())
    error = (log_normal(u, mu, log_variance) - StandardNormal()(u)).std(0) / len(u) ** 0.5
    assert ((estimate - kl_standard_normal(mu, log_variance)).abs() < 4 * error).all()
    # a mixture whose components are all the standard normal is one
    with seeded(0):
        flat = Mixture(3, 5).double()
    flat.mu.data.zero_(), flat.log_variance.data.zero_()
    torch.testing.assert_close(kl_monte_carlo(u, mu, log_variance, flat).detach(), estimate)


@pytest.mark.parametrize("single", [False, True])
def test_a_head_keeps_its_limits(single):
    with seeded(0):
        head = GaussianHead(6, 4, single=single)
    mu, log_variance = head(randn(50, 6).float())
    assert (0.5 * log_variance).exp().mean().item() == pytest.approx(0.1)  # as it starts
    torch.nn.init.normal_(head.log_variance.weight, generator=torch.Generator().manual_seed(0))
    mu, log_variance = head(1e4 * randn(50, 6).float())
    assert mu.shape == log_variance.shape == (50, 4)
    sigma = (0.5 * log_variance).exp()
    assert mu.abs().max() == 20
    assert sigma.min().item() == pytest.approx(0.01) and sigma.max().item() == pytest.approx(5)
    assert single == bool((log_variance == log_variance[:, :1]).all())


@pytest.mark.parametrize("space, components", [("h", 0), ("z", 3)])
def test_a_model_file_keeps_what_an_embedding_predicts(tmp_path, space, components):
    size = {"h": 16, "z": 8}[space]
    with seeded(3):
        backbone = build_backbone("resnet-8-4", channels=1)
        modules = {"backbone": backbone, "projector": build_projector(16, [8, 8])}
        modules |= {"gaussian": GaussianHead(size, size, single=space == "z")}
        modules["prior"] = build_prior(components, size)
    law = {"space": space, "sigma": {"h": "diagonal", "z": "single"}[space], "components": components}
    metadata = model_card(projector=[8, 8], stochastic=law)
    path = tmp_path / "model.safetensors"
    save_model(path, modules, metadata)
    model, _ = load_model(path)
    for module in modules.values():
        module.eval()
    x = randn(5, 1, 8, 8).float()
    found = outputs(model, x)
    h = backbone(x)
    base = h if space == "h" else modules["projector"](h)
    mu, log_variance = modules["gaussian"](base)
    expected = {"mu": mu, "log_variance": log_variance}
    expected["features"] = mu if space == "h" else h
    expected["projections"] = modules["projector"](mu) if space == "h" else mu
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, msg=key)
    torch.testing.assert_close(model.prior(mu), modules["prior"](mu))
    with pytest.raises(InputError, match="weight 'gaussian.mu.weight' is missing"):
        save_model(path, {k: m for k, m in modules.items() if k != "gaussian"}, metadata)


def test_single_precision_loses_little_in_the_mixtures_products():
    prior, law = mixture(10, 512)
    u = 5 * randn(20, 512)
    error = (prior.float()(u.float()).double() - law.log_prob(u)).abs() / law.log_prob(u).abs()
    assert np.max(error.detach().numpy()) < 1e-5
