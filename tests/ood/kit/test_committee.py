"""What a committee says, against scipy and counting."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy, mode

from sslood.ood.kit.committee import COMMITTEE

P = np.random.default_rng(0).dirichlet(np.full(6, 0.4), (5, 40))  # members, images, classes
P[:, 0] = np.eye(6)[2]  # all are sure of one class
P[:, 1] = np.eye(6)[[0, 1, 2, 2, 2]]  # each is sure, of its own


def score(name, p=P):
    return COMMITTEE[name](torch.from_numpy(p)).numpy()


def test_scores_are_their_formulas():
    mean = P.mean(0)
    np.testing.assert_allclose(score("msp"), -mean.max(1))
    np.testing.assert_allclose(score("entropy"), entropy(mean, axis=1))
    # the information is also the mean divergence of the members from their mean
    divergence = entropy(P, mean[None].repeat(5, 0), axis=2).mean(0)
    np.testing.assert_allclose(score("mutual_information"), divergence, atol=1e-12)
    _, votes = mode(P.argmax(2), axis=0)
    np.testing.assert_allclose(score("variation_ratio"), 1 - votes / 5)


def test_members_that_agree_are_not_divided():
    assert score("entropy")[0] == score("mutual_information")[0] == score("variation_ratio")[0] == 0
    assert score("mutual_information")[1] == pytest.approx(score("entropy")[1])
    assert score("variation_ratio")[1] == pytest.approx(0.4)
    same = np.repeat(P[:1], 3, 0)
    np.testing.assert_allclose(score("mutual_information", same), 0, atol=1e-14)
    assert not score("variation_ratio", same).any()
    np.testing.assert_allclose(score("entropy", same), entropy(P[0], axis=1))


def test_the_order_of_members_does_not_matter():
    for name in COMMITTEE:
        np.testing.assert_allclose(score(name, P[::-1].copy()), score(name), atol=1e-14)
