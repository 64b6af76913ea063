"""Detectors that read the classifier's weights or are fitted on validation, against pytorch-ood and scipy."""

import mpmath
import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy, multivariate_normal
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from sslood.core.errors import InputError, LeftOut
from sslood.ood.geometry.shaping import largest, scaling
from sslood.ood.kit.outputs import Concepts, Head, Outputs
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.posthoc.kl_matching import _divergence
from sslood.ood.posthoc.temperature_scaling import RANGE, calibrating_temperature
from tests.kit.registries import DETECTORS, example

WIDTH, CLASSES = 24, 6
RANDOM = np.random.default_rng(7)
OWN = np.kron(np.eye(CLASSES), np.ones(WIDTH // CLASSES))  # each class has features of its own
WEIGHT = (OWN - 0.05 + RANDOM.normal(size=(CLASSES, WIDTH)) * 0.1).astype(np.float32)
BIAS = (RANDOM.normal(size=CLASSES) * 0.2).astype(np.float32)
LINEAR = torch.nn.Linear(WIDTH, CLASSES)
with torch.no_grad():
    LINEAR.weight.copy_(torch.from_numpy(WEIGHT))
    LINEAR.bias.copy_(torch.from_numpy(BIAS))


def made(n, seed):
    """Features as after a ReLU and pooling: above zero, of their class."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    noise = random.gamma(2.0, 0.2, size=(n, WIDTH))
    features = (OWN[labels] * random.uniform(0.2, 1.5, size=(n, 1)) + noise).astype(np.float32)
    head = Head(WEIGHT, BIAS)
    logits = head.logits(features).astype(np.float32)
    words = Concepts(OWN, np.random.default_rng(8).normal(size=(40, WIDTH)))
    return Outputs("made", features, None, logits, labels=labels, classes=CLASSES, head=head, concepts=words)


TRAIN, VALIDATION, TEST = made(600, 0), made(300, 1), made(200, 2)
FEATURES, LABELS = torch.from_numpy(TRAIN.features), torch.from_numpy(TRAIN.labels)
QUERIES = torch.from_numpy(TEST.features)


def scores(name, **settings):
    return example(name, **settings).fit(TRAIN, VALIDATION).score(TEST)


def through_maps(detector):
    maps = QUERIES[:, :, None, None]
    return detector.predict_feature_maps(maps).numpy()


def flat_head(maps):
    return LINEAR(maps.flatten(1))


def test_vim_equals_pytorch_ood():
    theirs = peer.ViM(None, d=12, w=LINEAR.weight, b=LINEAR.bias).fit_features(FEATURES, LABELS)
    np.testing.assert_allclose(
        scores("vim", share=0.5), theirs.predict_features(QUERIES), rtol=1e-3, atol=1e-3
    )


def test_vim_of_one_feature_is_left_out():
    one = Outputs("a", TRAIN.features[:, :1], labels=TRAIN.labels, head=Head(WEIGHT[:, :1], BIAS))
    with pytest.raises(LeftOut, match="a: the features have no residual"):
        example("vim").fit(one)


@pytest.mark.parametrize("shift", [-100.0, None])
def test_vim_of_logits_that_are_not_above_zero_is_left_out(shift):
    """Their ratio to the residual is negative: features far outside would be the most ID."""
    head = Head(0 * WEIGHT, 0 * BIAS) if shift is None else Head(WEIGHT, BIAS + np.float32(shift))
    with pytest.raises(LeftOut, match=r"a: the largest logits are (-9\d|0)\S* on average") as found:
        example("vim").fit(Outputs("a", TRAIN.features, labels=TRAIN.labels, head=head))
    assert not found.value.reason.startswith("a: ")


def test_react_equals_pytorch_ood():
    theirs = peer.ReAct(None, flat_head, percentile=0.8).fit_feature_maps(FEATURES[:, :, None, None], LABELS)
    np.testing.assert_allclose(scores("react", quantile=0.8), through_maps(theirs), rtol=1e-5)


@pytest.mark.parametrize("variant", ["s", "b", "p"])
def test_ash_equals_pytorch_ood(variant):
    with torch.no_grad():
        theirs = through_maps(peer.ASH(None, flat_head, percentile=0.6, variant=f"ash-{variant}"))
    np.testing.assert_allclose(scores("ash", variant=variant, pruned=0.6), theirs, rtol=1e-4, atol=1e-5)


def test_scale_equals_pytorch_ood():
    with torch.no_grad():
        theirs = through_maps(peer.SCALE(None, flat_head, percentile=0.85))
    np.testing.assert_allclose(scores("scale", pruned=0.85), theirs, rtol=1e-4, atol=1e-5)


def test_dice_equals_pytorch_ood():
    theirs = peer.DICE(None, LINEAR.weight, LINEAR.bias, p=0.7).fit_features(FEATURES, LABELS)
    ours = scores("dice", dropped=0.7)
    np.testing.assert_allclose(ours, theirs.predict_features(QUERIES).numpy(), rtol=1e-4, atol=1e-5)


def test_fdbd_equals_pytorch_ood():
    theirs = peer.fDBD(torch.nn.Identity(), LINEAR).fit_features(FEATURES).predict_features(QUERIES)
    np.testing.assert_allclose(scores("fdbd"), theirs.numpy(), rtol=1e-4)


def test_nnguide_equals_pytorch_ood():
    theirs = peer.NNGuide(None, LINEAR, k=7).fit_features(FEATURES, LABELS)
    np.testing.assert_allclose(scores("nnguide", k=7), theirs.predict_features(QUERIES).numpy(), rtol=1e-4)
    with pytest.raises(InputError, match="NNGuide needs 601 train images, there are 600"):
        scores("nnguide", k=601)


def test_she_equals_pytorch_ood():
    theirs = peer.SHE(None, LINEAR).fit_features(FEATURES, LABELS)
    with torch.no_grad():
        np.testing.assert_allclose(scores("she"), theirs.predict_features(QUERIES).numpy(), rtol=1e-4)


def test_she_takes_all_images_of_a_class_that_is_never_right():
    never = np.where(TRAIN.labels == 2, -50.0, 0) + np.zeros(len(TRAIN))
    logits = TRAIN.logits.copy()
    logits[:, 2] = np.where(TRAIN.labels == 2, never, logits[:, 2])
    train = Outputs("made", features=TRAIN.features, logits=logits, labels=TRAIN.labels, classes=CLASSES)
    patterns = example("she").fit(train).state["patterns"]
    np.testing.assert_allclose(patterns[2], TRAIN.features[TRAIN.labels == 2].mean(0), rtol=1e-5)


def test_kl_matching_equals_pytorch_ood_and_scipy():
    theirs = peer.KLMatching(None).fit_logits(torch.from_numpy(VALIDATION.logits).double())
    theirs = theirs.predict_logits(torch.from_numpy(TEST.logits).double()).numpy()
    ours = scores("kl_matching")
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    p, known = softmax(TEST.logits.astype(float), 1), softmax(VALIDATION.logits.astype(float), 1)
    templates = [known[known.argmax(1) == k].mean(0) for k in np.unique(known.argmax(1))]
    expected = np.min([[entropy(row, d) for d in templates] for row in p], axis=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)


def divergence(p, d):
    return mpmath.fsum(x * mpmath.log(x / y) for x, y in zip(p, d, strict=True))


@pytest.mark.parametrize("scale", [1.0, 20.0, 40.0, 100.0])
def test_kl_matching_of_a_sure_classifier_keeps_its_digits(scale):
    """Logits in eighths, so that their differences are exact, near to and far from those of validation."""
    random, corners = np.random.default_rng(0), np.eye(4)[np.arange(40) % 4] * scale
    known = corners + random.integers(-8, 9, size=(40, 4)) / 8
    far = np.concatenate([known[:4], corners[:4] / 2, corners[:4] * 1.5, corners[:4] + corners[1]])
    fitted = example("kl_matching").fit(TRAIN, Outputs("v", logits=known))
    found = fitted.score(Outputs("b", logits=far))
    with mpmath.workdps(150):

        def probabilities(row):
            e = [mpmath.exp(x) for x in row.tolist()]
            return [x / mpmath.fsum(e) for x in e]

        own, predicted = [probabilities(row) for row in known], known.argmax(1)
        members = [np.flatnonzero(predicted == k) for k in np.unique(predicted)]
        templates = [[mpmath.fsum(own[i][k] for i in rows) / len(rows) for k in range(4)] for rows in members]
        exact = [min(divergence(p, d) for d in templates) for p in map(probabilities, far)]
    np.testing.assert_allclose(found, np.array(exact, float), rtol=1e-12, atol=0)


def test_the_divergence_of_nearly_equal_probabilities_keeps_its_digits():
    gaps = np.ldexp(1.0, -np.arange(1, 26))  # through the edge between the series and the closed form
    logits = np.stack([gaps, -gaps], 1)
    template = torch.log(torch.tensor([0.5, 0.5], dtype=torch.float64))
    found = _divergence(torch.log_softmax(torch.from_numpy(logits), 1), template).numpy()
    with mpmath.workdps(60):
        p = [1 / (1 + mpmath.exp(-2 * gap)) for gap in gaps.tolist()]
        exact = [divergence((x, 1 - x), (0.5, 0.5)) for x in p]
    np.testing.assert_allclose(found[:12], np.array(exact[:12], float), rtol=1e-12, atol=0)
    np.testing.assert_allclose(found, np.array(exact, float), rtol=1e-7, atol=0)  # log p has 16 digits itself


def test_gmm_equals_pytorch_ood_and_scipy():
    theirs = peer.GMM(None, reg=1e-12).fit_features(FEATURES.double(), LABELS)
    ours = scores("gmm", ridge=1e-12, beta=0.0)
    np.testing.assert_allclose(ours, theirs.predict_features(QUERIES.double()).numpy(), rtol=1e-6)
    rows = [TRAIN.features[TRAIN.labels == k].astype(float) for k in range(CLASSES)]
    logs = [multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(TEST.features) for x in rows]
    np.testing.assert_allclose(ours, -logsumexp(np.stack(logs) - np.log(CLASSES), axis=0), rtol=1e-6)


def test_residual_is_the_reconstruction_error_of_a_pca():
    pca = PCA(12).fit(TRAIN.features.astype(float))
    gap = TEST.features - pca.inverse_transform(pca.transform(TEST.features.astype(float)))
    np.testing.assert_allclose(
        scores("residual", share=0.5, beta=0.0), np.linalg.norm(gap, axis=1), rtol=1e-6
    )


def test_neco_equals_a_pca_of_standardised_features():
    scaler = StandardScaler().fit(TRAIN.features.astype(float))
    pca = PCA(5).fit(scaler.transform(TRAIN.features.astype(float)))
    rows = scaler.transform(TEST.features.astype(float))
    share = np.linalg.norm(pca.transform(rows), axis=1) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(scores("neco", share=0.2), -share * TEST.logits.max(1), rtol=1e-6)


def test_temperature_is_found_again_and_scores_are_calibrated():
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 5)) * 2
    labels = (logits + random.gumbel(size=logits.shape)).argmax(1)  # drawn from their own softmax
    for factor in (0.5, 1.0, 4.0):
        assert calibrating_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)
    own, rows = VALIDATION.labels, np.arange(len(VALIDATION))
    found = minimize_scalar(
        lambda b: -log_softmax(b * VALIDATION.logits.astype(float), axis=1)[rows, own].mean(),
        bracket=(0.1, 1),
    )
    temperature = calibrating_temperature(VALIDATION.logits, own)
    assert temperature == pytest.approx(1 / found.x, rel=1e-4)
    largest_p = softmax(TEST.logits.astype(float) / temperature, 1).max(1)
    np.testing.assert_allclose(np.exp(scores("temperature_scaling")), 1 - largest_p, rtol=1e-6, atol=1e-12)


def test_temperature_of_a_classifier_that_is_always_right_stays_in_range():
    found = calibrating_temperature(np.eye(3) * 5, np.arange(3))
    assert RANGE[0] <= found < 0.3


@pytest.mark.parametrize(
    "name",
    ["react", "ash", "scale", "dice", "fdbd", "nnguide", "neco", "she", "vra", "lts", "gradnorm", "nci"],
)
def test_images_without_evidence_are_more_ood(name):
    settings = {"neco": {"share": 0.25}, "ash": {"variant": "s"}}.get(name, {})
    fitted = example(name, **settings).fit(TRAIN)
    nothing = 0.02 * np.abs(np.random.default_rng(1).normal(size=(100, WIDTH)))
    logits = Head(WEIGHT, BIAS).logits(nothing)
    empty = Outputs("made", features=nothing.astype(np.float32), logits=logits)
    assert ood_metrics(fitted.score(TEST), fitted.score(empty))["auroc"] > 0.9


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_features_outside_the_principal_directions_are_more_ood(name):
    fitted = example(name).fit(TRAIN)
    moved = TEST.features + 3 * fitted.state["basis"][:, 0].astype(np.float32)
    away = Outputs("made", features=moved, logits=TEST.logits)
    assert ood_metrics(fitted.score(TEST), fitted.score(away))["auroc"] > 0.95


@pytest.mark.parametrize("name", [name for name, kind in DETECTORS.items() if kind.needs_head])
def test_a_missing_head_is_named(name):
    bare = Outputs("x.train", features=TRAIN.features, logits=TRAIN.logits, labels=TRAIN.labels)
    detector = example(name)
    assert detector.suits(bare) and not detector.suits(Outputs("x", features=TRAIN.features))
    with pytest.raises(InputError, match="x.train: .* reads the weights of the classifier.*dvc repro embed"):
        detector.fit(bare)


def test_shaping_survives_rows_of_zeros():
    rows = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4]])
    kept = largest(rows, 0.5)
    np.testing.assert_array_equal(kept, [[True, True, False, False], [False, False, True, True]])
    ties = largest(torch.tensor([[2.0, 1, 1, 1, 3]]), 0.4)
    np.testing.assert_array_equal(ties, [[True, True, False, False, True]])
    np.testing.assert_allclose(scaling(rows, kept)[:, 0], [np.e, np.exp(10 / 7)])


def test_refuses():
    with pytest.raises(InputError, match="fitted on ID validation"):
        example("kl_matching").fit(TRAIN)
    unknown = Outputs("v", logits=TRAIN.logits, labels=np.full(600, -1))
    with pytest.raises(InputError, match="needs 1 labelled class in"):
        example("temperature_scaling").fit(TRAIN, unknown)
    for name, key in [("vim", "share"), ("react", "quantile"), ("dice", "dropped"), ("ash", "pruned")]:
        with pytest.raises(InputError, match=f"{key} must be above 0 and below 1, found 1.0"):
            DETECTORS[name].Settings(**{key: 1.0})
    one = Outputs("t", features=TRAIN.features, head=Head(WEIGHT[:1], BIAS[:1]))
    with pytest.raises(InputError, match="FDBD needs a classifier of at least 2 classes, this one has 1"):
        example("fdbd").fit(one)
