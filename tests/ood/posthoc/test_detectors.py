"""Detectors against pytorch-ood, high precision and the properties of their contract."""

import mpmath
import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from scipy.stats import rankdata

from sslood.core.errors import InputError
from sslood.ood.kit.outputs import Concepts, Head, Outputs
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.posthoc.energy import EnergySettings
from sslood.ood.posthoc.gen import GENSettings
from sslood.ood.posthoc.knn import KNN, KNNSettings
from sslood.ood.posthoc.mahalanobis import Mahalanobis, MahalanobisSettings
from sslood.ood.posthoc.msp import MSP
from sslood.ood.posthoc.rmds import RMDS, RMDSSettings
from tests.kit.registries import DETECTORS, example


def made(n=600, width=16, classes=5, shift=0.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 3
    features = (centres[labels] + random.normal(size=(n, width)) + shift).astype(np.float32)
    logits = (features[:, :classes] + random.normal(size=(n, classes))).astype(np.float32)
    head = Head(np.eye(classes, width, dtype=np.float32), np.linspace(-1, 1, classes, dtype=np.float32))
    words = Concepts(centres, np.random.default_rng(98).normal(size=(40, width)))
    return Outputs("made", features, None, logits, labels=labels, classes=classes, head=head, concepts=words)


TRAIN, TEST, FAR = made(), made(n=400, seed=1), made(n=300, shift=20.0, seed=2)
VALIDATION = made(n=200, seed=3)
LOGITS = torch.from_numpy(TEST.logits)


def fitted(name, **settings):
    return example(name, **settings).fit(TRAIN, VALIDATION)


def test_energy_max_logit_entropy_and_gen_equal_pytorch_ood():
    theirs = peer.EnergyBased.score(LOGITS, t=2.0).numpy()
    np.testing.assert_allclose(fitted("energy", temperature=2.0).score(TEST), theirs, rtol=1e-5)
    np.testing.assert_allclose(
        fitted("max_logit").score(TEST), peer.MaxLogit.score(LOGITS).numpy(), rtol=1e-6
    )
    np.testing.assert_allclose(fitted("entropy").score(TEST), peer.Entropy.score(LOGITS).numpy(), atol=1e-5)
    ours = fitted("gen", gamma=0.1, top=5).score(TEST)
    theirs = peer.GEN.score(LOGITS.double(), gamma=0.1).numpy()
    # theirs is a mean and clamps at 1e-7: the same up to one factor where nothing is clamped
    unclamped = (torch.softmax(LOGITS.double(), 1) > 1e-6).all(1).numpy()
    assert unclamped.sum() > 50
    np.testing.assert_allclose((ours / theirs)[unclamped], (ours / theirs)[unclamped][0], rtol=1e-4)


def test_gen_sums_only_the_largest():
    p = torch.softmax(LOGITS.double(), 1).numpy()
    part = -np.sort(-p, 1)[:, :2]
    np.testing.assert_allclose(
        fitted("gen", gamma=0.5, top=2).score(TEST), np.sqrt(part * (1 - part)).sum(1), rtol=1e-9
    )


def test_msp_is_the_logarithm_of_one_minus_the_largest():
    p = torch.softmax(LOGITS.double(), 1).max(1).values.numpy()
    np.testing.assert_allclose(np.exp(fitted("msp").score(TEST)), 1 - p, rtol=1e-6, atol=1e-15)


def test_msp_does_not_saturate():
    logits = np.array([[40.0, 0, 0], [80.0, 0, 1], [900.0, -900, 3], [0, 0, 0]], np.float32)
    found = MSP().fit(Outputs("a", logits=logits)).score(Outputs("b", logits=logits))
    with mpmath.workdps(900):
        for row, value in zip(logits.tolist(), found, strict=True):
            e = sorted(mpmath.exp(x) for x in row)
            assert value == pytest.approx(float(mpmath.log(mpmath.fsum(e[:-1]) / mpmath.fsum(e))), rel=1e-14)
    assert len(np.unique(found)) == 4


def test_knn_equals_pytorch_ood_and_brute_force():
    z, q = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (TRAIN.features, TEST.features))
    exact = np.sort(np.linalg.norm(q[:, None].astype(float) - z[None].astype(float), axis=2), axis=1)
    for k in (1, 7, 600):
        np.testing.assert_allclose(fitted("knn", k=k).score(TEST), exact[:, k - 1], atol=1e-6)
    theirs = peer.KNN(None, k=7).fit_features(
        torch.from_numpy(TRAIN.features), torch.from_numpy(TRAIN.labels)
    )
    theirs = theirs.predict_features(torch.from_numpy(TEST.features)).numpy()
    np.testing.assert_array_equal(
        rankdata(theirs.round(5)), rankdata(fitted("knn", k=7).score(TEST).round(5))
    )


def test_mahalanobis_equals_pytorch_ood_on_a_mild_spectrum():
    theirs = peer.Mahalanobis(None)
    theirs.fit_features(torch.from_numpy(TRAIN.features).double(), torch.from_numpy(TRAIN.labels))
    theirs.mu, theirs.precision = theirs.mu.double(), theirs.precision.double()
    theirs = theirs.predict_features(torch.from_numpy(TEST.features).double()).numpy()
    ours = Mahalanobis(MahalanobisSettings(ridge=1e-9, beta=0.0)).fit(TRAIN).score(TEST)
    # theirs is half the distance, with the scatter not divided by N
    np.testing.assert_allclose(ours, 2 * len(TRAIN) * theirs, rtol=1e-4)


def test_rmds_ranks_as_pytorch_ood():
    theirs = peer.RMD(None)
    theirs.fit_features(torch.from_numpy(TRAIN.features), torch.from_numpy(TRAIN.labels))
    theirs = theirs.predict_features(torch.from_numpy(TEST.features)).numpy()
    ours = RMDS(RMDSSettings(ridge=1e-9)).fit(TRAIN).score(TEST)
    assert np.corrcoef(rankdata(theirs), rankdata(ours))[0, 1] > 0.9999


@pytest.mark.parametrize("name", DETECTORS)
def test_contract_of_every_detector(name):
    detector = fitted(name)
    scores = detector.score(TEST)
    assert scores.shape == (len(TEST),) and scores.dtype == np.float64 and np.isfinite(scores).all()
    one = Outputs("one", features=TEST.features[:1], logits=TEST.logits[:1])
    np.testing.assert_allclose(detector.score(one), scores[:1], rtol=1e-9, err_msg="depends on the batch")
    with pytest.raises(InputError, match="must be fitted"):
        type(detector)(detector.settings).score(TEST)
    part = detector.reads[0]
    with pytest.raises(InputError, match=f"reads {part}"):
        detector.score(Outputs("other", projections=TEST.features))
    with pytest.raises(InputError, match="wide"):
        detector.score(Outputs("other", **{part: np.zeros((3, 99), np.float32) for part in detector.reads}))
    assert set(map(type, detector.state.values())) <= {np.ndarray}


@pytest.mark.parametrize("name", ["knn", "mahalanobis", "gmm", "residual"])
def test_far_away_is_exactly_separated(name):
    detector = fitted(name)
    assert ood_metrics(detector.score(TEST), detector.score(FAR))["auroc"] > 0.999
    assert ood_metrics(-np.ones(3), np.ones(3))["auroc"] == 1.0


@pytest.mark.parametrize(
    "name", ["msp", "max_logit", "energy", "entropy", "gen", "temperature_scaling", "kl_matching"]
)
def test_flat_logits_are_more_ood_than_peaked_ones(name):
    random, detector = np.random.default_rng(0), fitted(name)
    peaked = (8 * np.eye(5)[np.arange(50) % 5] + random.normal(size=(50, 5)) * 0.1).astype(np.float32)
    flat = (random.normal(size=(50, 5)) * 0.1).astype(np.float32)
    scores = (detector.score(Outputs("made", logits=logits)) for logits in (peaked, flat))
    assert ood_metrics(*scores)["auroc"] == 1.0


def test_refuses_what_cannot_be_right():
    bad = TEST.features.copy()
    bad[3], bad[7, 0] = np.nan, np.inf
    with pytest.raises(InputError, match="digits.test: the features of 2 of 400 images are NaN"):
        Outputs("digits.test", features=bad)
    with pytest.raises(InputError, match="KNN needs 601 train images, there are 600"):
        KNN(KNNSettings(k=601)).fit(TRAIN).score(TEST)
    with pytest.raises(InputError, match="features are 9 wide, but the detector was fitted on 16"):
        fitted("mahalanobis").score(Outputs("digits.test", features=TEST.features[:, :9]))
    with pytest.raises(InputError, match="no image of class 5"):
        example("mahalanobis").fit(Outputs("train", features=TRAIN.features, labels=TRAIN.labels, classes=6))
    with pytest.raises(InputError, match="Mahalanobis needs 1 labelled class in train, there are 0"):
        example("mahalanobis").fit(Outputs("train", features=TRAIN.features, labels=np.full(600, -1)))
    for settings in (lambda: EnergySettings(0.0), lambda: GENSettings(gamma=-1)):
        with pytest.raises(InputError, match="must be above 0, found"):
            settings()
    with pytest.raises(InputError, match="k must be at least 1, found 0"):
        KNNSettings(k=0)


@pytest.mark.parametrize("name", [name for name, kind in DETECTORS.items() if kind.space])
def test_a_setting_that_is_still_to_be_chosen_is_named(name):
    first = next(iter(DETECTORS[name].space))
    with pytest.raises(InputError, match=f"the setting {first} is auto; give a value, or choose one"):
        example(name, **{first: "auto"}).fit(TRAIN, VALIDATION)
