"""Losses beside lightly 1.6.0's in float64, values and gradients.

Conventions agree throughout: NT-Xent is a mean over all 2N views, Barlow Twins standardises with the
biased variance plus 1e-5, VICReg averages the variance over the views and sums the covariance. BYOL is
the paper's 2 - 2 cos summed over both directions, where lightly has the mean of -cos.
"""

import pytest
import torch
from lightly.loss.barlow_twins_loss import BarlowTwinsLoss
from lightly.loss.dino_loss import DINOLoss
from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
from lightly.loss.ntx_ent_loss import NTXentLoss
from lightly.loss.vicreg_loss import VICRegLoss

from sslood.nets.objectives.byol import byol
from sslood.nets.objectives.dino import dino
from sslood.nets.selfsup.losses.barlow_twins import barlow_twins
from sslood.nets.selfsup.losses.contrastive import nt_xent
from sslood.nets.selfsup.losses.vicreg import vicreg


def projections(n, d, count=2):
    generator = torch.Generator().manual_seed(n + d)
    shared = torch.randn(n, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, n, d, generator=generator, dtype=torch.float64)
    return [(shared + part).requires_grad_() for part in noise]


def lightly_byol(p1, p2, y1, y2):
    loss = NegativeCosineSimilarity()
    return 4 + 2 * (loss(p1, y2) + loss(p2, y1))


def our_dino(s1, s2, t1, t2):
    centre = torch.zeros(t1.shape[1], dtype=torch.float64)
    return dino(s1, s2, t1, t2, centre, 0.125, torch.tensor(0.0625))


def lightly_dino(s1, s2, t1, t2):
    loss = DINOLoss(t1.shape[1], teacher_temp=0.0625, student_temp=0.125)
    return loss.double()([t1, t2], [s1, s2])


PAIRS = {
    "nt_xent": (lambda a, b: nt_xent(a, b, 0.2)[0], NTXentLoss(0.2)),
    "barlow_twins": (lambda a, b: barlow_twins(a, b, 0.005)[0], BarlowTwinsLoss(0.005)),
    "vicreg": (lambda a, b: vicreg(a, b, 25, 25, 1)[0], VICRegLoss()),
    "byol": (byol, lightly_byol),
    "dino": (our_dino, lightly_dino),
}


@pytest.mark.parametrize("n, d", [(32, 12), (12, 32)])  # both sides of the Gram forms
@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_equal_lightly(name, n, d):
    inputs = projections(n, d, 4 if name in ("byol", "dino") else 2)
    values, gradients = [], []
    for function in PAIRS[name]:
        loss = function(*inputs)
        values.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, inputs[:2]))
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
