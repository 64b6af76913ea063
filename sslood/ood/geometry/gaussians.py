"""Diagonal Gaussians against each other and against a prior, in float64 and in nats.

The rowwise functions are the definitions. The pairwise ones expand squares into matrix
products, which cancel digits: they serve to find neighbours, whose divergence is then summed rowwise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.ood.geometry.products import number
from sslood.ood.kit.detector import Arrays, Tensors
from sslood.ood.kit.outputs import Outputs

LOG_2PI = math.log(2 * math.pi)
FACTORS, WIDEST = 4, 1e9  # variances whose product is taken, and how far they may be from the usual one
UNIT = 2.0**-24  # of rounding to float32
COLUMNS = 2048  # of a bank, [D, COLUMNS] float32 at a time on a CPU


@dataclass(frozen=True)
class DiagonalGaussians:
    """N diagonal Gaussians: mu and log_variance float64 [N, D] on one device."""

    mu: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, parts: Mapping[str, Tensor]) -> "DiagonalGaussians":
        """Return those of outputs or of a detector's state, widened to float64."""
        return cls(parts["mu"].double(), parts["log_variance"].double())

    def __len__(self) -> int:
        return len(self.mu)

    def __getitem__(self, rows: slice | Tensor) -> "DiagonalGaussians":
        return DiagonalGaussians(self.mu[rows], self.log_variance[rows])


def kl(p: DiagonalGaussians, q: DiagonalGaussians) -> Tensor:
    """Return KL(p_n || q_n) of each row, [N], at least 0."""
    squares = (p.mu - q.mu).square() * (-q.log_variance).exp()
    ratio = p.log_variance - q.log_variance
    return 0.5 * (squares + torch.expm1(ratio) - ratio).sum(-1)


def bhattacharyya(p: DiagonalGaussians, q: DiagonalGaussians) -> Tensor:
    """Return -log of the integral of sqrt(p_n q_n), each row, [N]; symmetric. p or q may be a single row."""
    mean = 0.5 * (p.log_variance.exp() + q.log_variance.exp())
    squares = (p.mu - q.mu).square() / mean
    return (0.125 * squares + 0.5 * mean.log() - 0.25 * (p.log_variance + q.log_variance)).sum(-1)


def euclidean(p: DiagonalGaussians, q: DiagonalGaussians) -> Tensor:
    """Return the distance of the means of each row, [N]."""
    return (p.mu - q.mu).square().sum(-1).sqrt()


def kl_pairs(p: DiagonalGaussians, q: DiagonalGaussians) -> Tensor:
    """Return KL(p_i || q_j), [P, Q], by one product of rows 2 D wide."""
    centre = q.mu.mean(0)  # smaller means cancel fewer digits
    a, b = p.mu - centre, q.mu - centre
    precision = (-q.log_variance).exp()
    left = torch.cat([p.log_variance.exp() + a.square(), a], 1)
    right = torch.cat([precision, -2 * b * precision], 1)
    own = (b.square() * precision + q.log_variance).sum(1) - p.mu.shape[1]
    return 0.5 * (left @ right.T + own - p.log_variance.sum(1)[:, None])


def bhattacharyya_pairs(p: DiagonalGaussians, q: DiagonalGaussians) -> Tensor:
    """Return the Bhattacharyya distance of p_i and q_j, to float32's digits, [P, Q], for ranking.

    No product gives the sums of variances, so this takes D steps for each pair: on rows that stay in the
    cache, with one logarithm for FACTORS variances, which are relative to those of q and kept in a range
    whose product has no overflow.
    """
    level, centre = q.log_variance.mean(0), q.mu.mean(0)
    scale = torch.exp(-0.5 * level)

    def prepared(one: DiagonalGaussians) -> tuple[Tensor, Tensor, Tensor]:
        half = 0.5 * (one.log_variance - level).exp().clamp(1.0 / WIDEST, WIDEST)
        own = (one.log_variance - level).sum(1)
        return ((one.mu - centre) * scale).float().T.contiguous(), half.float().T.contiguous(), own

    (left, left_half, left_own), (right, right_half, right_own) = prepared(p), prepared(q)
    found, one = torch.empty(len(p), len(q), device=q.mu.device), torch.ones_like(left[:, 0])
    step = COLUMNS if found.device.type == "cpu" else max(1, len(q))
    for start in range(0, len(q), step):
        mu, half = (rows[:, start : start + step].contiguous() for rows in (right, right_half))
        mean, squares = torch.empty_like(half), torch.empty_like(mu)
        for i in range(len(p)):
            torch.add(half, left_half[:, i, None], out=mean)
            torch.sub(mu, left[:, i, None], out=squares)
            squares.mul_(squares).div_(mean)
            found[i, start : start + step] = 0.125 * (one @ squares) + 0.5 * _log_of_product(mean)
    found = found.double() - 0.25 * (left_own[:, None] + right_own)
    for i in torch.nonzero(~found.isfinite().all(1)).flatten().tolist():  # beyond float32
        found[i] = bhattacharyya(p[i : i + 1], q)
    return found


def bhattacharyya_bounds(p: DiagonalGaussians, q: DiagonalGaussians) -> Tensor:
    """Return what the Bhattacharyya distance of p_i and q_j is at least: float32 [P, Q], by one product.

    In each dimension 1 / m, m the mean of the variances v of p_i and w of q_j, is convex in w, and the rest,
    log(m^2 / (v w)) / 4, in log w. Tangents at the mean variance of q, here the unit, lie below them, and the
    sum of these is a product of rows 6 D wide. The most that rounding can add to it is taken off.
    """
    usual = q.log_variance.exp().mean(0)
    centre, scale, level = q.mu.mean(0), usual.rsqrt(), usual.log()
    a, log_v = (p.mu - centre) * scale, p.log_variance - level
    b, log_w = (q.mu - centre) * scale, q.log_variance - level
    v, w = log_v.exp(), log_w.exp()
    m = 0.5 * (v + 1)
    slope = 0.5 / m.square()  # 1 / m >= 2 / m - slope v - slope w, the first m at w, the others at w = 1
    near, far = 0.125 * (2 / m - slope * v), -0.125 * slope
    turn = 0.25 * (1 - v) / (1 + v)
    own = (a.square() * near + 0.5 * m.log() - 0.25 * log_v).sum(1)
    left = torch.cat([near, -2 * a * near, far, -2 * a * far, a.square() * far, turn], 1)
    squares = b.square()
    right = torch.cat([squares, b, squares * w, b * w, w, log_w], 1)
    rounding = UNIT * (left.shape[1] + 8) * (left.abs() @ right.abs().amax(0) + own.abs())
    return (left.float() @ right.float().T).add_((own - rounding).float()[:, None])


def _log_of_product(rows: Tensor) -> Tensor:
    """Return sum_d log x_dn of rows x [D, N], which are overwritten: [N]."""
    quarter = len(rows) // FACTORS
    product = rows[:quarter]
    for part in range(1, FACTORS):
        product.mul_(rows[part * quarter : (part + 1) * quarter])
    return product.log_().sum(0) + rows[FACTORS * quarter :].log_().sum(0)


def euclidean_pairs(p: DiagonalGaussians, q: DiagonalGaussians) -> Tensor:
    """Return the squared distance of the means of p_i and q_j, [P, Q], for ranking."""
    centre = q.mu.mean(0)
    a, b = p.mu - centre, q.mu - centre
    return a.square().sum(1)[:, None] - 2 * a @ b.T + b.square().sum(1)


def prior_state(source: Outputs) -> Arrays:
    """Return the prior as the state of a detector; InputError if the embeddings do not hold it."""
    if source.prior is None:
        raise InputError(
            f"{source.name}: these embeddings were written without the model's prior; run `dvc repro embed`"
        )
    prior = vars(source.prior)
    return {f"prior_{key}": array.astype("float64") for key, array in prior.items()}


def log_density(u: Tensor, state: Tensors) -> Tensor:
    """Return log sum_k w_k N(u; m_k, v_k) in nats, [...], of points u [..., D]; state from `prior_state`."""
    mu, log_variance = state["prior_mu"], state["prior_log_variance"]
    precision = (-log_variance).exp()
    squares = u.square() @ precision.T - 2 * (u @ (mu * precision).T) + (mu * mu * precision).sum(1)
    constant = (log_variance + number(LOG_2PI)).sum(1)
    return torch.logsumexp(state["prior_log_weights"] - 0.5 * (squares + constant), -1)
