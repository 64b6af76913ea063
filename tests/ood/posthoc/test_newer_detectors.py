"""NCI, pNML, VRA, LTS, GradNorm, OpenMax, WeiPer and membership against pytorch-ood and their formulas."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from scipy.special import expit, logsumexp, softmax
from scipy.stats import spearmanr

from sslood.core.errors import InputError
from sslood.ood.kit.outputs import Head, Outputs
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.posthoc import weiper
from tests.kit.registries import DETECTORS, example
from tests.ood.posthoc.test_head_detectors import (
    BIAS,
    CLASSES,
    FEATURES,
    LABELS,
    LINEAR,
    QUERIES,
    TEST,
    TRAIN,
    VALIDATION,
    WEIGHT,
    WIDTH,
    scores,
)

RIGHT = TRAIN.logits.argmax(1) == TRAIN.labels


def test_nci_equals_pytorch_ood():
    for alpha in (0.0, 0.01):
        theirs = peer.NCI(None, LINEAR, alpha=alpha).fit_features(FEATURES).predict_features(QUERIES)
        np.testing.assert_allclose(scores("nci", alpha=alpha), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_pnml_equals_pytorch_ood_and_does_not_saturate():
    theirs = peer.PNML(None, LINEAR).fit_features(FEATURES, LABELS)
    ours = scores("pnml") / np.log(CLASSES)
    np.testing.assert_allclose(ours, theirs.predict_features(QUERIES).detach(), rtol=1e-4, atol=1e-6)
    sure = Head(WEIGHT * 300, BIAS)  # where the largest probability is 1.0 in float64
    fitted = example("pnml").fit(Outputs("a", features=TRAIN.features, labels=TRAIN.labels, head=sure))
    found = fitted.score(TEST)[:5]
    rows = TEST.features[:5].astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    directions = TRAIN.features.astype(float)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inverse = np.linalg.inv(directions.T @ directions)
    with mpmath.workdps(400):
        for row, value in zip(rows, found, strict=True):
            square = mpmath.mpf(float(row @ inverse @ row))
            e = [mpmath.exp(float(x)) for x in sure.logits(row[None])[0]]
            p = [x / mpmath.fsum(e) for x in e]
            kappa = square / (1 + square)
            exact = mpmath.log(mpmath.fsum(x / (x + (1 - x) * x**kappa) for x in p))
            assert value == pytest.approx(float(exact), rel=1e-6)
    assert len(np.unique(fitted.score(TEST))) == len(TEST)


@pytest.mark.parametrize("scale", [1.0, 20.0, 50.0, 100.0, 200.0])
def test_pnml_of_a_sure_classifier_keeps_its_digits(scale):
    """Of a head of unit vectors of labels times `scale`: the sum is 1 to all digits of float64."""
    head = Head(np.eye(8) * scale, np.zeros(8))
    random = np.random.default_rng(0)
    known = np.eye(8)[np.arange(800) % 8] + 0.1 * random.normal(size=(800, 8))
    between = np.eye(8)[0] + np.linspace(0, 1, 11)[:, None] * np.eye(8)[1]  # from one label to the next
    fitted = example("pnml").fit(Outputs("a", features=known, head=head))
    found = fitted.score(Outputs("b", features=between))
    known, between = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (known, between))
    inverse = np.linalg.inv(known.T @ known)
    with mpmath.workdps(200):
        for row, value in zip(between, found, strict=True):
            square = mpmath.mpf(float(row @ inverse @ row))
            e = [mpmath.exp(float(x)) for x in head.logits(row[None])[0]]
            p, kappa = [x / mpmath.fsum(e) for x in e], square / (1 + square)
            exact = mpmath.log(mpmath.fsum(x / (x + (1 - x) * x**kappa) for x in p))
            assert value == pytest.approx(float(exact), rel=1e-11, abs=0)
    assert scale == 1.0 or (np.diff(found) > 0).all()


def test_pnml_of_an_unseen_direction_is_the_limit_of_a_vanishing_ridge():
    """ID train has no value in a third of the features; queries have some there, or none."""
    seen = np.arange(WIDTH) < 16
    head, few = Head(WEIGHT, BIAS), np.where(seen, TRAIN.features, 0)
    queries = np.concatenate(
        [np.where(seen, TEST.features, 0), TEST.features, np.where(seen, 0, TEST.features)]
    ).astype(np.float32)
    fitted = example("pnml").fit(Outputs("a", features=few, labels=TRAIN.labels, head=head))
    found = fitted.score(Outputs("b", features=queries))
    rows, known = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (queries.astype(float), few))
    known = known.astype(float)
    inverse = np.linalg.inv(known.T @ known + 1e-12 * np.eye(WIDTH))
    square = np.einsum("nd,de,ne->n", rows, inverse, rows)[:, None]
    p = softmax(head.logits(rows), axis=1)
    expected = np.log((p / (p + (1 - p) * p ** (square / (1 + square)))).sum(1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    ours, mixed, new = found.reshape(3, -1)
    assert ood_metrics(ours, mixed)["auroc"] == ood_metrics(ours, new)["auroc"] == 1.0


def test_vra_rectifies_both_ends_of_all_activations():
    low, high = np.quantile(TRAIN.features.astype(float), [0.05, 0.9])
    rows = np.where(TEST.features < low, 0.0, np.minimum(TEST.features.astype(float), high))
    expected = -logsumexp(rows @ WEIGHT.T.astype(float) + BIAS, axis=1)
    np.testing.assert_allclose(scores("vra", low=0.05, high=0.9), expected, rtol=1e-9)
    # pytorch-ood clips below to the limit, of each feature by itself; without a lower limit it is ReAct
    np.testing.assert_allclose(scores("vra", low=0.0, high=0.9), scores("react", quantile=0.9), rtol=1e-9)
    with pytest.raises(InputError, match=r"low must be below high, found 0.9 and 0.5"):
        DETECTORS["vra"].Settings(low=0.9, high=0.5)


def test_lts_equals_pytorch_ood():
    with torch.no_grad():
        theirs = peer.LTS(None, LINEAR, p=0.3).predict_features(QUERIES).numpy()
    np.testing.assert_allclose(scores("lts", pruned=0.7), theirs, rtol=1e-5)


def test_gradnorm_equals_the_gradient():
    theirs = peer.GradNorm(LINEAR, param_filter=lambda name: name == "weight").predict(QUERIES).numpy()
    ours = scores("gradnorm")
    np.testing.assert_allclose(ours / theirs, (ours / theirs)[0], rtol=1e-4)


@pytest.mark.parametrize("top", [1, 3, 10])
def test_openmax_equals_pytorch_ood(top):
    theirs = peer.OpenMax(None, tailsize=20, alpha=min(top, CLASSES))
    theirs.fit_logits(torch.from_numpy(TRAIN.logits[RIGHT]), LABELS[RIGHT])  # it takes the wrong ones too
    p = theirs.predict_logits(torch.from_numpy(TEST.logits)).numpy()
    found = expit(scores("openmax", tail=20, top=top))
    np.testing.assert_allclose(found, p, atol=0.02)
    assert spearmanr(found, p)[0] > 0.999


def test_openmax_does_not_saturate_where_the_unknown_class_is_sure():
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    logits = np.eye(3)[labels] * 30 + random.normal(size=(300, 3))
    fitted = example("openmax").fit(Outputs("a", logits=logits, labels=labels, classes=3))
    far = np.array([[45.0, 0, 0], [50, 0, 0], [60, 0, 0], [80, 0, 0]])
    found = fitted.score(Outputs("b", logits=far))
    np.testing.assert_allclose(found, far[:, 0] - np.log(3), rtol=1e-12)  # all of the first logit is taken


def test_openmax_survives_a_class_of_equal_images():
    logits = np.where(LABELS.numpy()[:, None] == 2, np.eye(CLASSES)[2] * 5, TRAIN.logits).astype(np.float32)
    fitted = example("openmax").fit(Outputs("a", logits=logits, labels=TRAIN.labels, classes=CLASSES))
    assert np.isfinite(fitted.score(TEST)).all()


def test_membership_is_energy_and_cosine_outside_the_classifier():
    rows, queries = TRAIN.features.astype(float), TEST.features.astype(float)
    basis = np.linalg.qr(WEIGHT.T.astype(float))[0]

    def parts(x, means=None):
        rest = x - x @ basis @ basis.T
        logits = x @ WEIGHT.T.astype(float) + BIAS
        if means is None:
            means = np.stack([rest[TRAIN.labels == k].mean(0) for k in range(CLASSES)])
        member = means[logits.argmax(1)]
        cosine = (rest * member).sum(1) / np.linalg.norm(rest, axis=1) / np.linalg.norm(member, axis=1)
        return np.stack([-logsumexp(logits, axis=1), -cosine], 1), means

    known, means = parts(rows)
    found = (parts(queries, means)[0] - known.mean(0)) / known.std(0)
    np.testing.assert_allclose(scores("membership"), found.sum(1), rtol=1e-6, atol=1e-8)
    with pytest.raises(InputError, match="span all 24 dimensions"):
        wide = Head(np.random.default_rng(0).normal(size=(30, WIDTH)), np.zeros(30))
        example("membership").fit(
            Outputs("a", features=TRAIN.features, labels=TRAIN.labels, classes=CLASSES, head=wide)
        )


def test_weiper_without_noise_is_the_histograms_and_the_msp():
    settings = {"delta": 1e-12, "repeats": 3, "bins": 10, "smooth": 1, "smooth_logits": 3}

    def histogram(values, known, width):
        edges = np.linspace(known.min(), known.max(), 11)
        counts = np.stack([np.histogram(np.clip(row, edges[0], edges[-1]), edges)[0] for row in values])
        density = counts * 10 / values.shape[1]
        density = np.stack([np.convolve(row, np.ones(width) / width, "same") for row in density])
        return (density + weiper.FLOOR) / (density + weiper.FLOOR).mean(1, keepdims=True)

    def divergence(values, known, width):
        p, q = histogram(values, known, width), histogram(known, known, width).mean(0)
        return (p * np.log(p / q) + q * np.log(q / p)).mean(1)

    logits = [Head(WEIGHT, BIAS).logits(part.features) for part in (TEST, TRAIN)]
    parts = [part.features.astype(float) for part in (TEST, TRAIN)]
    expected = divergence(*parts, 1) + 0.5 * divergence(*logits, 3) - 2.0 * softmax(logits[0], 1).max(1)
    found = scores("weiper", logits_weight=0.5, msp_weight=2.0, **settings)
    assert (np.abs(found - expected) < 1e-6).mean() > 0.97  # a value at the edge of a bin may fall beside it


def test_weiper_perturbs_each_class_by_delta_lengths():
    state = example("weiper", delta=1.5, repeats=40).fit(TRAIN).state
    noise = state["weight"].reshape(40, CLASSES, WIDTH) - WEIGHT
    np.testing.assert_allclose(np.linalg.norm(noise, axis=2) / np.linalg.norm(WEIGHT, axis=1), 1.5, rtol=1e-6)
    other = example("weiper", delta=1.5, repeats=40, seed=1).fit(TRAIN).state["weight"]
    assert not np.allclose(other, state["weight"])


NORMS = ["mahalanobis", "gmm", "residual", "rmds"]


def scaled(outputs):
    """Every image's features at a length of its own."""
    factors = np.random.default_rng(5).uniform(0.2, 5.0, (len(outputs), 1)).astype(np.float32)
    return Outputs("a", features=outputs.features * factors, labels=outputs.labels, classes=outputs.classes)


@pytest.mark.parametrize("name", NORMS)
def test_at_beta_one_only_directions_count(name):
    detector = example(name, beta=1.0).fit(TRAIN)
    np.testing.assert_allclose(detector.score(scaled(TEST)), detector.score(TEST), rtol=1e-3, atol=1e-4)
    again = example(name, beta=1.0).fit(scaled(TRAIN))
    np.testing.assert_allclose(again.score(TEST), detector.score(TEST), rtol=2e-2, atol=1e-3)
    plain = example(name, beta=0.0).fit(TRAIN)
    assert not np.allclose(plain.score(scaled(TEST)), plain.score(TEST), rtol=0.1)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("beta", [0.5, 1.5])
def test_beta_is_a_division_before_everything_else(name, beta):
    def divided(outputs):
        rows = outputs.features.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True) ** beta
        return Outputs("a", features=rows, labels=outputs.labels, classes=outputs.classes)

    found = example(name, beta=beta).fit(TRAIN).score(TEST)
    expected = example(name, beta=0.0).fit(divided(TRAIN)).score(divided(TEST))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NORMS)
def test_features_of_zeros_are_scored(name):
    blank = Outputs("a", features=np.zeros((2, WIDTH), np.float32))
    assert np.isfinite(example(name, beta=1.5).fit(TRAIN).score(blank)).all()


@pytest.mark.parametrize("name", list(DETECTORS))
def test_duplicated_training_images_and_their_order_change_little(name):
    """Twice the same images are the same distribution, in any order; what counts images counts twice."""
    once, double = {"knn": ({"k": 20}, {"k": 40}), "openmax": ({"tail": 20}, {"tail": 40})}.get(
        name, ({}, {})
    )
    source = VALIDATION if DETECTORS[name].on_validation else TRAIN
    rows = np.random.default_rng(3).permutation(np.tile(np.arange(len(source)), 2))
    parts = {part: getattr(source, part)[rows] for part in ("features", "logits", "labels")}
    twice = replace(source, **parts)
    twice_fitted = example(name, **double).fit(*((TRAIN, twice) if source is VALIDATION else (twice,)))
    expected = example(name, **once).fit(TRAIN, VALIDATION).score(TEST)
    assert spearmanr(twice_fitted.score(TEST), expected)[0] > 0.98


def test_relation_is_the_mean_similarity_in_features_and_classes():
    def parts(outputs):
        rows = outputs.features.astype(float)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), softmax(outputs.logits.astype(float), 1)

    (z, p), (known, known_p) = parts(TEST), parts(TRAIN)
    similar = np.maximum(0, z @ known.T) * (p @ known_p.T)
    np.testing.assert_allclose(scores("relation", power=3.0), -np.log((similar**3).mean(1)), rtol=1e-9)
    few = example("relation", power=3.0, bank=100).fit(TRAIN)
    assert few.state["bank"].shape == (100, WIDTH)
    assert spearmanr(few.score(TEST), scores("relation", power=3.0))[0] > 0.95
