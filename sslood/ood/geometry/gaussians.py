"""Diagonal Gaussians against each other and against a prior, in float64 and in nats.

The rowwise functions take the definitions as they stand. The pairwise ones expand squares into matrix
products, which cancel digits: they serve to find neighbours, whose divergence is then summed rowwise.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from sslood.ood.kit.outputs import Prior

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Laws:
    """N diagonal Gaussians: mu and log_variance float64 [N, D] on one device."""

    mu: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, mu: np.ndarray, log_variance: np.ndarray, device: str = "cpu") -> "Laws":
        """Widen arrays to float64 on `device`, or on the CPU where a device has no float64."""
        place = "cpu" if device.startswith("mps") else device
        return cls(*(torch.as_tensor(np.asarray(part)).to(place).double() for part in (mu, log_variance)))

    def __len__(self) -> int:
        return len(self.mu)

    def __getitem__(self, rows) -> "Laws":
        return Laws(self.mu[rows], self.log_variance[rows])


def kl(p: Laws, q: Laws) -> Tensor:
    """Return KL(p_n || q_n) of each row, [N], at least 0."""
    squares = (p.mu - q.mu).square() * (-q.log_variance).exp()
    ratio = p.log_variance - q.log_variance
    return 0.5 * (squares + torch.expm1(ratio) - ratio).sum(-1)


def bhattacharyya(p: Laws, q: Laws) -> Tensor:
    """Return -log of the integral of sqrt(p_n q_n), each row, [N]; symmetric. p or q may be a single row."""
    mean = 0.5 * (p.log_variance.exp() + q.log_variance.exp())
    squares = (p.mu - q.mu).square() / mean
    return (0.125 * squares + 0.5 * mean.log() - 0.25 * (p.log_variance + q.log_variance)).sum(-1)


def euclidean(p: Laws, q: Laws) -> Tensor:
    """Return the distance of the means of each row, [N]."""
    return (p.mu - q.mu).square().sum(-1).sqrt()


def kl_pairs(p: Laws, q: Laws) -> Tensor:
    """Return KL(p_i || q_j), [P, Q], by one product of rows 2 D wide."""
    centre = q.mu.mean(0)  # smaller means cancel fewer digits
    a, b = p.mu - centre, q.mu - centre
    precision = (-q.log_variance).exp()
    left = torch.cat([p.log_variance.exp() + a.square(), a], 1)
    right = torch.cat([precision, -2 * b * precision], 1)
    own = (b.square() * precision + q.log_variance).sum(1) - p.mu.shape[1]
    return 0.5 * (left @ right.T + own - p.log_variance.sum(1)[:, None])


def bhattacharyya_pairs(p: Laws, q: Laws) -> Tensor:
    """Return the Bhattacharyya distance of p_i and q_j, [P, Q]: no product gives the sums of variances."""
    return torch.stack([bhattacharyya(p[i : i + 1], q) for i in range(len(p))])


def euclidean_pairs(p: Laws, q: Laws) -> Tensor:
    """Return the squared distance of the means of p_i and q_j, [P, Q], for ranking."""
    centre = q.mu.mean(0)
    a, b = p.mu - centre, q.mu - centre
    return a.square().sum(1)[:, None] - 2 * a @ b.T + b.square().sum(1)


def log_density(u: np.ndarray, prior: Prior) -> np.ndarray:
    """Return log sum_k w_k N(u; m_k, v_k) in nats, [...], of points u [..., D]."""
    mu, log_variance = (np.asarray(part, np.float64) for part in (prior.mu, prior.log_variance))
    precision = np.exp(-log_variance)
    squares = np.square(u) @ precision.T - 2 * (u @ (mu * precision).T) + (mu * mu * precision).sum(1)
    constant = (log_variance + LOG_2PI).sum(1)
    return logsumexp(prior.log_weights - 0.5 * (squares + constant), axis=-1)
