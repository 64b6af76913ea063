"""Weighted energy, CFOOD, MCM and NegLabel against pytorch-ood and their formulas in float64."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from scipy.special import logsumexp
from scipy.stats import rankdata

from sslood.core.errors import InputError, LeftOut
from sslood.ood.kit.outputs import Concepts, Outputs
from sslood.ood.posthoc.cfood import SHARES
from sslood.ood.posthoc.neglabel import NegLabel
from tests.kit.registries import example
from tests.ood.posthoc.test_head_detectors import CLASSES, TEST, TRAIN, WIDTH, scores

LABELS, WORDS = TRAIN.concepts.labels, TRAIN.concepts.negatives


def unit(rows):
    return rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_weighted_energy_equals_pytorch_ood_with_its_weights(strength):
    energies = -logsumexp(TRAIN.logits.astype(float), axis=1)
    means = np.array([energies[TRAIN.labels == k].mean() for k in range(CLASSES)])
    weights = torch.from_numpy(np.exp(strength * (means - means.mean())))
    theirs = peer.WeightedEBO.score(torch.from_numpy(TEST.logits).double(), weights).numpy()
    np.testing.assert_allclose(scores("weighted_energy", strength=strength), theirs, rtol=1e-12)


def test_weighted_energy_at_full_strength_takes_out_what_a_class_adds():
    """A constant added to the logits of a class's images, of which each has one class alone."""
    logits = np.eye(3)[np.arange(90) % 3] * 500.0 + np.array([0.0, 30.0, -20.0])[np.arange(90) % 3][:, None]
    outputs = Outputs("a", logits=logits, labels=np.arange(90) % 3, classes=3)
    found = example("weighted_energy", strength=1.0).fit(outputs).score(outputs)
    np.testing.assert_allclose(found, found[0], rtol=1e-12)
    assert np.ptp(example("energy").fit(outputs).score(outputs)) == pytest.approx(50.0)


def cfood(bank, rows, quorum):
    """From the definition, one pair after another."""
    bank, rows = unit(bank), unit(rows)
    near = np.sort(((bank[:, None] - bank) ** 2).sum(2), axis=1)
    places = np.maximum((SHARES * len(bank) - 1).astype(int), 0)
    found = []
    for row in rows:
        squares = ((row - bank) ** 2).sum(1)
        shares = [
            s for s, k in zip(SHARES, places, strict=True) if (near[:, k + 1] >= squares).mean() >= quorum
        ]
        found.append(min(shares, default=1.0))
    return np.array(found)


@pytest.mark.parametrize("quorum", [0.01, 0.1])
def test_cfood_equals_its_definition(quorum):
    far = np.concatenate([TEST.features[:60], -TEST.features[:20], 3 * TRAIN.features[:20]])
    detector = example("cfood", quorum=quorum).fit(TRAIN)
    found = detector.score(Outputs("b", features=far))
    np.testing.assert_array_equal(found, cfood(TRAIN.features, far, quorum))
    assert (found[60:80] == 1.0).all() and len(np.unique(found[:60])) > 10
    assert len(SHARES) == 230 and SHARES[0] == 0.001 and SHARES[-1] == 0.99


def test_cfood_of_a_drawn_bank_is_near_that_of_all():
    drawn = example("cfood", bank=200, seed=3).fit(TRAIN)
    assert drawn.state["bank"].shape == (200, WIDTH)
    assert np.corrcoef(rankdata(drawn.score(TEST)), rankdata(scores("cfood")))[0, 1] > 0.7
    two = replace(TRAIN, features=TRAIN.features[:2], logits=TRAIN.logits[:2], labels=TRAIN.labels[:2])
    assert np.isin(example("cfood").fit(two).score(TEST), [0.001, 1.0]).all()
    with pytest.raises(LeftOut, match="CFOOD needs 2 train images"):
        example("cfood").fit(replace(two, features=two.features[:1], logits=None, labels=None))


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_mcm_ranks_as_pytorch_ood_and_does_not_saturate(temperature):
    text = torch.from_numpy(LABELS)
    theirs = peer.MCM(None, text, temperature).predict_features(torch.from_numpy(TEST.features)).numpy()
    ours = scores("mcm", temperature=temperature)
    np.testing.assert_allclose(-np.log1p(-np.exp(ours)), -np.log(-theirs), atol=2e-5)
    sure = example("mcm", temperature=1e-3).fit(TRAIN).score(TEST)
    assert len(np.unique(sure)) == len(TEST), "100 images of probability 1 in float64 still differ"


def test_mcm_of_one_word_is_left_out():
    with pytest.raises(LeftOut, match="made: MCM needs a vocabulary of at least 2 classes, this one has 1"):
        example("mcm").fit(replace(TRAIN, concepts=Concepts(LABELS[:1], WORDS)))


def neglabel(groups, temperature, rows):
    """In as many digits as needed: log-odds of the mean over groups of 1 - their share of the classes."""
    with mpmath.workdps(60):
        c, n = (unit(rows) @ unit(vectors).T / temperature for vectors in (LABELS, WORDS))
        found = []
        for one, other in zip(c, n, strict=True):
            positive = mpmath.fsum(mpmath.exp(x) for x in one)
            negative = [mpmath.fsum(mpmath.exp(other[j]) for j in group) for group in groups]
            mean = mpmath.fsum(x / (positive + x) for x in negative) / len(groups)
            found.append(mpmath.log(mean / (1 - mean)))
        return np.array(found, float)


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_neglabel_equals_its_formula(temperature):
    detector = example("neglabel", temperature=temperature, groups=7).fit(TRAIN)
    of = np.array([np.flatnonzero((unit(WORDS) == word).all(1))[0] for word in detector.state["words"]])
    groups = [of[column == 1] for column in detector.state["member"].T]
    assert sorted(np.concatenate(groups)) == list(range(len(WORDS)))
    assert {len(group) for group in groups} == {5, 6}
    found = detector.score(TEST)[:20]
    np.testing.assert_allclose(found, neglabel(groups, temperature, TEST.features[:20]), rtol=1e-9)
    between = np.array([WORDS[0] + share * LABELS[0] for share in (0.0, 0.01, 0.05, 0.1)])
    sure = detector.score(Outputs("between", features=between))
    np.testing.assert_allclose(sure, neglabel(groups, temperature, between), rtol=1e-9)
    assert (
        detector.score(Outputs("word", features=WORDS)) > detector.score(Outputs("id", features=LABELS)).max()
    ).all()


def test_neglabel_keeps_the_words_that_are_least_similar():
    near = np.concatenate([LABELS + 0.1, WORDS[:6]])  # the classes' own names are no negative words
    detector = NegLabel(NegLabel.Settings(kept=0.5)).fit(replace(TRAIN, concepts=Concepts(LABELS, near)))
    np.testing.assert_allclose(np.sort(detector.state["words"], 0), np.sort(unit(WORDS[:6]), 0), rtol=1e-12)


def test_refusals():
    without = replace(TRAIN, concepts=None)
    assert not example("mcm").suits(without) and example("mcm").suits(TRAIN)
    labels_alone = replace(TRAIN, concepts=Concepts(LABELS))
    assert example("mcm").suits(labels_alone) and not example("neglabel").suits(labels_alone)
    with pytest.raises(InputError, match="made: there are no vectors of negatives"):
        example("neglabel").fit(labels_alone)
    with pytest.raises(
        InputError, match=r"vectors of labels have shape \(6, 9\), but the features are 24 wide"
    ):
        replace(TRAIN, concepts=Concepts(LABELS[:, :9]))
    with pytest.raises(InputError, match="made: 1 vectors of negatives are NaN or infinite"):
        replace(TRAIN, concepts=Concepts(LABELS, np.where(np.arange(40)[:, None] == 3, np.nan, WORDS)))
