"""Every loss against a direct double loop in float64, values and gradients, and its symmetries."""

import math

import numpy as np
import pytest
import torch

from sslood.nets.objectives.cider import SPARE, compactness, dispersion, moved
from sslood.nets.objectives.supcon import supcon
from sslood.nets.selfsup.losses.barlow_twins import EPSILON as BARLOW_EPSILON
from sslood.nets.selfsup.losses.barlow_twins import barlow_twins
from sslood.nets.selfsup.losses.contrastive import alignment, nt_xent, repulsion
from sslood.nets.selfsup.losses.vicreg import EPSILON as VICREG_EPSILON
from sslood.nets.selfsup.losses.vicreg import covariance, invariance, variance, vicreg

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])


def direct_contrastive(z1, z2, positives, temperature):
    """-mean_i mean_{p in positives(i)} log softmax, pair by pair."""
    z = torch.cat((z1, z2))
    z = [row / row.square().sum().sqrt() for row in z]
    total = 0.0
    for i in range(len(z)):
        scores = [torch.dot(z[i], z[a]) / temperature for a in range(len(z))]
        denominator = torch.log(sum(scores[a].exp() for a in range(len(z)) if a != i))
        total = total - sum(scores[p] - denominator for p in positives(i)) / len(positives(i))
    return total / len(z)


def direct_nt_xent(z1, z2):
    n = len(z1)
    return direct_contrastive(z1, z2, lambda i: [(i + n) % (2 * n)], 0.3)


def direct_supcon(z1, z2):
    labels = LABELS.repeat(2).tolist()
    same = [[p for p in range(len(labels)) if p != i and labels[p] == labels[i]] for i in range(len(labels))]
    return direct_contrastive(z1, z2, lambda i: same[i], 0.3)


def direct_barlow_twins(z1, z2):
    n, d = z1.shape
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + BARLOW_EPSILON).sqrt() for z in (z1, z2))
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(a[k, i] * b[k, j] for k in range(n)) / n
            total = total + ((c - 1) ** 2 if i == j else 0.005 * c**2)
    return total


def direct_vicreg(z1, z2):
    n, d = z1.shape
    total = 25 * sum((z1[k, i] - z2[k, i]) ** 2 for k in range(n) for i in range(d)) / (n * d)
    for z in (z1, z2):
        z = z - z.mean(0)
        for i in range(d):
            for j in range(d):
                c = sum(z[k, i] * z[k, j] for k in range(n)) / (n - 1)
                if i == j:
                    total = total + 25 / 2 / d * torch.relu(1 - (c + VICREG_EPSILON).sqrt())
                else:
                    total = total + c**2 / d
    return total


STARTS = torch.nn.functional.normalize(
    torch.randn(5, 12, generator=torch.Generator().manual_seed(0)).double()
)


def cider(z1, z2):
    h, labels = torch.nn.functional.normalize(torch.cat((z1, z2)), dim=1), LABELS.repeat(2)
    prototypes = moved(STARTS[:, : z1.shape[1]] * (STARTS[:, :1] > 0), h, labels, 0.9)
    return 2 * compactness(h, prototypes.detach(), labels, 0.3) + dispersion(prototypes, 0.3)


def direct_cider(z1, z2):
    """Prototypes moved by one vector after the other, some of them from 0; class 4 is not in the batch."""
    prototypes = list(STARTS[:, : z1.shape[1]] * (STARTS[:, :1] > 0))
    h = [row / row.square().sum().sqrt() for row in torch.cat((z1, z2))]
    labels = LABELS.repeat(2).tolist()
    for row, label in zip(h, labels, strict=True):
        p = 0.9 * prototypes[label] + 0.1 * row
        prototypes[label] = p / p.square().sum().sqrt()
    total = 0.0
    for row, label in zip(h, labels, strict=True):
        scores = torch.stack([torch.dot(row, p.detach()) / 0.3 for p in prototypes])
        total = total - 2 * (scores[label] - torch.log(scores.exp().sum())) / len(h)
    for j, p in enumerate(prototypes):
        others = [torch.exp(torch.dot(p, q) / 0.3) for k, q in enumerate(prototypes) if k != j]
        total = total + torch.log(sum(others) / 4) / 5
    return total


PAIRS = {
    "nt_xent": (lambda a, b: nt_xent(a, b, 0.3)[0], direct_nt_xent),
    "supcon": (lambda a, b: supcon(a, b, LABELS, 0.3)[0], direct_supcon),
    "cider": (cider, direct_cider),
    "barlow_twins": (lambda a, b: barlow_twins(a, b, 0.005)[0], direct_barlow_twins),
    "vicreg": (lambda a, b: vicreg(a, b, 25, 25, 1)[0], direct_vicreg),
}


def projections(d):
    rng = np.random.default_rng(d)
    z1 = rng.normal(size=(7, d))
    z2 = z1 + 0.5 * rng.normal(size=(7, d))
    return [torch.from_numpy(0.8 * z).requires_grad_() for z in (z1, z2)]


@pytest.mark.parametrize("d", [4, 12])  # both sides of the Gram forms: N = 7
@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_equal_the_direct_loop(name, d):
    ours, direct = PAIRS[name]
    z1, z2 = projections(d)
    values, gradients = [], []
    for function in (ours, direct):
        loss = function(z1, z2)
        values.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, (z1, z2)))
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", sorted(PAIRS.keys() - {"cider"})
)  # whose prototypes remember the last vector best
def test_swapping_the_views_changes_nothing(name):
    z1, z2 = projections(5)
    torch.testing.assert_close(PAIRS[name][0](z1, z2), PAIRS[name][0](z2, z1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["nt_xent", "barlow_twins", "vicreg"])
def test_the_order_of_the_batch_changes_nothing(name):
    z1, z2 = projections(5)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    ours = PAIRS[name][0]
    torch.testing.assert_close(ours(z1, z2), ours(z1[order], z2[order]), rtol=1e-12, atol=0)


def test_supcon_with_distinct_labels_is_nt_xent():
    z1, z2 = projections(5)
    loss, _ = supcon(z1, z2, torch.arange(7), 0.3)
    torch.testing.assert_close(loss, nt_xent(z1, z2, 0.3)[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("spread", [0.5, 20.0])
def test_cider_s_prototypes_have_unit_length_after_every_vector(spread):
    """Vectors that point apart shorten a prototype; were that kept, the last few of a batch would be it."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    labels = torch.from_numpy(rng.integers(0, 3, 600))
    z = torch.from_numpy(centres[labels] + spread * rng.normal(size=(600, 16)))
    h = torch.nn.functional.normalize(z, dim=1)
    ours, theirs = torch.zeros(3, 16).double(), torch.zeros(3, 16).double()
    for part, own in zip(h.split(50), labels.split(50), strict=True):
        ours = moved(ours, part, own, 0.95)
        for row, label in zip(part, own, strict=True):
            theirs[label] = torch.nn.functional.normalize(0.95 * theirs[label] + 0.05 * row, dim=0)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_cider_s_last_vectors_of_a_crowded_class_come_together():
    """There are twice as many steps as a class has vectors on average, and some; this class has all."""
    rng = np.random.default_rng(1)
    h = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(200, 8))), dim=1)
    start = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(20, 8))), dim=1)
    labels = torch.full((200,), 7)
    found, steps = moved(start, h, labels, 0.95), 2 * 10 + SPARE
    expected = start[7]
    for row in h[:steps]:
        expected = torch.nn.functional.normalize(0.95 * expected + 0.05 * row, dim=0)
    rest = 0.95 ** (200 - steps) * expected + 0.05 * h[steps:].sum(0)
    torch.testing.assert_close(found[7], rest / rest.square().sum().sqrt(), rtol=0, atol=1e-12)
    assert torch.equal(found[:7], start[:7]) and torch.equal(found[8:], start[8:])


def test_cider_of_orthogonal_prototypes_in_closed_form():
    prototypes = torch.eye(4, dtype=torch.float64)
    assert dispersion(prototypes, 0.1).item() == pytest.approx(0, abs=1e-12)
    found = compactness(prototypes, prototypes, torch.arange(4), 0.5).item()
    assert found == pytest.approx(math.log(math.e**2 + 3) - 2)


def test_nt_xent_of_orthogonal_pairs_in_closed_form():
    z = torch.eye(4, dtype=torch.float64)  # positives at similarity 1, the other 6 at 0
    loss, terms = nt_xent(z, 3 * z, 0.5)  # lengths do not matter
    assert loss.item() == pytest.approx(-2 + math.log(math.e**2 + 6), abs=1e-12)
    assert terms["alignment"].item() == pytest.approx(-2)
    assert alignment(z, z, 0.5).item() == pytest.approx(-2)
    assert repulsion(torch.cat((z, z)), 0.5).item() == pytest.approx(math.log(math.e**2 + 6))


def test_barlow_twins_is_zero_for_equal_uncorrelated_views():
    z = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).normal(size=(30, 6))))[0]
    z = torch.linalg.qr(z - z.mean(0))[0] * 1e4  # large, so that epsilon does not count
    loss, terms = barlow_twins(z, z, 0.005)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert terms["redundancy"].item() == pytest.approx(0, abs=1e-6)


def test_vicreg_terms_at_collapse():
    z = torch.ones(6, 3, dtype=torch.float64)
    assert invariance(z, z).item() == 0
    assert variance(z).item() == pytest.approx(1 - VICREG_EPSILON**0.5)
    assert covariance(z).item() == 0
