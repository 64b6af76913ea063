"""Gaussian embeddings: the distribution that an image's embedding is drawn from, priors, and divergences."""

import math

import torch
from torch import Tensor, nn

from sslood.nets.networks.initialise import normal_, orthogonal_

MU_LIMIT = 20.0
SIGMA_LIMITS = (0.01, 5.0)
FIRST_SIGMA = 0.1


class GaussianHead(nn.Module):
    """Two linear maps [N, inputs] -> (mu, log variance), each [N, size], of a diagonal Gaussian.

    mu is clamped to [-20, 20], and the variance so that sigma lies in [0.01, 5]. With `single` one sigma
    serves all dimensions of an image. mu starts as an orthogonal map, which keeps all distances, and sigma
    at 0.1 everywhere: at 1 the noise would drown the first steps. Weights come from torch's default
    generator (see `seeded`).
    """

    def __init__(self, inputs: int, size: int, *, single: bool):
        super().__init__()
        self.mu = nn.Linear(inputs, size)
        self.log_variance = nn.Linear(inputs, 1 if single else size)
        orthogonal_(self.mu.weight)
        nn.init.zeros_(self.mu.bias)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, 2 * math.log(FIRST_SIGMA))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.mu(x).clamp(-MU_LIMIT, MU_LIMIT)
        low, high = (2 * math.log(sigma) for sigma in SIGMA_LIMITS)
        return mu, self.log_variance(x).clamp(low, high).expand_as(mu)


def sample(mu: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Return mu + sigma noise, [S, N, D], for standard normal noise [S, N, D]: the reparameterised draw."""
    return mu + (0.5 * log_variance).exp() * noise


def log_normal(u: Tensor, mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return log N(u; mu, diag(variance)) in nats, summed over the last dimension D."""
    squares = (u - mu).square() * (-log_variance).exp()
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)


def kl_standard_normal(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mu, variance) || N(0, 1)) in nats, [N], of [N, D]: in closed form."""
    return 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def kl_monte_carlo(u: Tensor, mu: Tensor, log_variance: Tensor, prior: nn.Module) -> Tensor:
    """Return mean_s [log q(u_s) - log p(u_s)] in nats, [N], of draws u [S, N, D] from q = N(mu, variance)."""
    return (log_normal(u, mu, log_variance) - prior(u)).mean(0)


class StandardNormal(nn.Module):
    """The prior N(0, 1): u [..., D] -> log density [...] in nats."""

    def forward(self, u: Tensor) -> Tensor:
        return -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)


class Mixture(nn.Module):
    """A learned mixture of diagonal Gaussians: u [..., D] -> log sum_k w_k N(u; m_k, v_k) in nats, [...].

    Means and log variances start from N(0, 1), the weights equal. The sum over components is taken after
    all dimensions, so this is the log density of a mixture. The squared distances come from three matrix
    products, without a tensor of [..., K, D].
    """

    def __init__(self, components: int, size: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(components))  # logits
        self.mu = nn.Parameter(torch.empty(components, size))
        self.log_variance = nn.Parameter(torch.empty(components, size))
        normal_(self.mu)
        normal_(self.log_variance)

    def forward(self, u: Tensor) -> Tensor:
        precision = (-self.log_variance).exp()
        scaled = self.mu * precision
        squares = u.square() @ precision.T - 2 * (u @ scaled.T) + (self.mu * scaled).sum(1)
        constant = (self.log_variance + math.log(2 * math.pi)).sum(1)
        return (self.weights.log_softmax(0) - 0.5 * (squares + constant)).logsumexp(-1)


def build_prior(components: int, size: int) -> nn.Module:
    """Return the standard normal (0 components) or a mixture over embeddings of `size` dimensions."""
    return Mixture(components, size) if components else StandardNormal()
