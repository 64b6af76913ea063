"""Margins on energies, for energy-bounded training with auxiliary outliers.

Liu et al. 2020, "Energy-based out-of-distribution detection", arXiv:2010.03759, section 3.3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CONFIDENT = 0.99  # the softmax probability that defines m_in of an untrained head


def energy(logits: Tensor) -> Tensor:
    """Return E(x) = -logsumexp of the logits [N, K] -> [N], at temperature 1 (eq. 4); larger = more OOD."""
    return -torch.logsumexp(logits, 1)


def margin_loss(energy_in: Tensor, energy_out: Tensor, *, m_in: float, m_out: float) -> Tensor:
    """Return mean_in max(0, E - m_in)^2 + mean_out max(0, m_out - E)^2 (section 3.3), means over samples."""
    above = F.relu(energy_in - m_in).square().mean()
    below = F.relu(m_out - energy_out).square().mean()
    return above + below


def auto_margins(energy_in: Tensor, energy_out: Tensor, *, gap: float = 0) -> tuple[float, float]:
    """Return (m_in, m_out) from the energies of the start model on ID training and auxiliary images.

    m_in = median of the ID energies; m_out = the median of the auxiliary energies, but at least the
    level that 95 % of the ID images lie below. So both margins lie within what the network already
    produces, at its own scale: half of the ID images already satisfy m_in, and the loss pulls in the
    upper half, where detection fails, and pushes out the auxiliaries that look like ID. Margins far
    from a network's energies distort it instead (constants do not transfer between networks). Then both
    margins move apart by `gap` times the distance between them; below 0 they move towards each other.
    """
    level = torch.tensor([0.5, 0.95], dtype=torch.float64)
    m_in, upper = quantiles(energy_in, level).tolist()
    m_out = max(upper, quantiles(energy_out, level[:1]).item())
    wider = gap * (m_out - m_in)
    return m_in - wider, m_out + wider


def quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Return the quantiles of values [N] at levels [L], float64 on the CPU, linear in between."""
    # torch.quantile refuses more than 16 million values, and not every device has float64
    ordered = values.cpu().double().sort().values
    position = levels * (len(ordered) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], position - low)


def untrained_margins(classes: int) -> tuple[float, float]:
    """Return (m_in, m_out) for an untrained head, whose energies are not informative yet.

    m_out = -ln K, the energy of K equal logits of zero; m_in = the energy of one logit that stands out
    from zeros by enough for a probability of 0.99: -ln((K - 1) / (1 - 0.99)).
    """
    return -math.log((classes - 1) / (1 - CONFIDENT)), -math.log(classes)
