"""SSD and SSD_k against a direct transcription of their definitions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from sslood.core.errors import InputError, LeftOut
from sslood.core.seeding import numpy_stream
from sslood.ood.geometry.clusters import cluster
from sslood.ood.kit.outputs import Outputs
from sslood.ood.ssd.selection import log_likelihood, select_settings
from sslood.ood.ssd.ssd import SSD, SSDSettings
from sslood.ood.ssd.ssdk import (
    PaperForm,
    SSDkSettings,
    fit_in_distribution,
    pick_shots,
)

RANDOM = np.random.default_rng(0)
TRAIN = (RANDOM.normal(size=(900, 10)) + 4 * (np.arange(900) % 3)[:, None]).astype(np.float32)
LABELS = np.arange(900) % 3
TEST = RANDOM.normal(2, 3, size=(200, 10)).astype(np.float32)
AUTO = SSDSettings(clusters="auto", covariance="auto", ridge="auto")
ID = Outputs("train", features=TRAIN, projections=TRAIN[:, :4], labels=LABELS, classes=3)
QUERY = Outputs("test", features=TEST, projections=TEST[:, :4])


def coordinates(rows, train):
    rows, train = rows.astype(float), train.astype(float)
    rows, train = (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-10) for x in (rows, train))
    return (rows - train.mean(0)) / (train.std(0) + 1e-10)


def squared(rows, mean, sigma):
    gap = rows - mean
    return np.sum(gap * (np.linalg.pinv(sigma) @ gap.T).T, axis=1)


def transcription(rows, train, groups, tied=False):
    z, t = coordinates(rows, train), coordinates(train, train)
    means = [t[groups == g].mean(0) for g in np.unique(groups)]
    sigmas = [np.cov(t[groups == g].T, bias=True) for g in np.unique(groups)]
    if tied:
        shared = sum(sigma * (groups == g).mean() for g, sigma in zip(np.unique(groups), sigmas, strict=True))
        sigmas = [shared] * len(means)
    return np.min([squared(z, mean, sigma) for mean, sigma in zip(means, sigmas, strict=True)], axis=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("clusters", [1, 3])
def test_ssd_with_clusters(clusters, tied):
    detector = SSD(SSDSettings(clusters=clusters, tied=tied, ridge=0.0), seed=1).fit(ID)
    groups = cluster(coordinates(TRAIN, TRAIN).astype(np.float32), clusters, 1, "here")
    np.testing.assert_allclose(detector.score(QUERY), transcription(TEST, TRAIN, groups, tied), rtol=1e-7)


@pytest.mark.parametrize("tied", [False, True])
def test_ssd_with_labels(tied):
    detector = SSD(SSDSettings(class_conditional=True, tied=tied, ridge=0.0)).fit(ID)
    np.testing.assert_allclose(detector.score(QUERY), transcription(TEST, TRAIN, LABELS, tied), rtol=1e-7)


def test_ssd_on_projections():
    detector = SSD(SSDSettings(layer="projections", ridge=0.0)).fit(ID)
    expected = transcription(TEST[:, :4], TRAIN[:, :4], np.zeros(900))
    np.testing.assert_allclose(detector.score(QUERY), expected, rtol=1e-7)


def test_ssd_with_ledoit_wolf():
    z, t = coordinates(TEST, TRAIN), coordinates(TRAIN, TRAIN)
    found = SSD(SSDSettings(covariance="ledoit_wolf")).fit(ID).score(QUERY)
    np.testing.assert_allclose(found, squared(z, t.mean(0), ledoit_wolf(t)[0]), rtol=1e-7)


def test_a_dead_unit_does_not_decide():
    dead, live = np.pad(TRAIN, ((0, 0), (0, 1))), np.pad(TEST, ((0, 0), (0, 1)), constant_values=1e-3)
    scores = SSD().fit(Outputs("train", features=dead)).score(Outputs("test", features=live))
    assert np.isfinite(scores).all() and scores.max() < 1e6


def test_k_means_repeats_in_bytes():
    rows = coordinates(TRAIN, TRAIN)
    np.testing.assert_array_equal(cluster(rows, 5, 3, "here"), cluster(rows, 5, 3, "here"))
    first, second = (SSD(SSDSettings(clusters=4), seed=2).fit(ID).state for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_ssdk_in_the_papers_form_equals_its_definition():
    shots = RANDOM.normal(-1, 1, size=(6, 4, 10)).astype(np.float32)
    form = PaperForm(fit_in_distribution(TRAIN, 1, 0, "train"))
    rows = form.rows(TEST)
    fitted = form.fit(rows[:6], shots, "ood")
    t, u = coordinates(TRAIN, TRAIN), coordinates(shots.reshape(-1, 10), TRAIN)
    z = coordinates(TEST, TRAIN)
    expected = squared(z, t.mean(0), ledoit_wolf(t)[0]) - squared(z, u.mean(0), ledoit_wolf(u)[0])
    np.testing.assert_allclose(fitted.score(rows), expected, rtol=1e-7, atol=1e-9)
    assert fitted.record() == {}


def test_shots_per_class_and_in_all():
    labels, index = np.repeat([0, 1, 2], 20), np.arange(0, 60, 2)
    picked = pick_shots(index, labels, SSDkSettings(k=3), numpy_stream(0, "a"), "set")
    assert np.bincount(labels[index[picked]]).tolist() == [3, 3, 3]
    in_all = pick_shots(index, labels, SSDkSettings(k=7, per_class=False), numpy_stream(0, "a"), "set")
    assert len(set(in_all.tolist())) == 7
    other = pick_shots(index, labels, SSDkSettings(k=3), numpy_stream(0, "b"), "set")
    assert picked.tolist() != other.tolist()
    unknown = pick_shots(index, np.full(60, -1), SSDkSettings(k=3), numpy_stream(0, "a"), "set")
    assert len(unknown) == 3


def test_refuses():
    with pytest.raises(InputError, match="pool of shots has 10 images of class 0"):
        pick_shots(np.arange(10), np.repeat([0], 20), SSDkSettings(k=11), numpy_stream(0), "set")
    with pytest.raises(InputError, match="all 5 test images"):
        pick_shots(np.arange(5), np.zeros(5, int), SSDkSettings(k=5), numpy_stream(0), "set")
    with pytest.raises(InputError, match="at least two views"):
        form = PaperForm(fit_in_distribution(TRAIN, 1, 0, "train"))
        form.fit(form.rows(TEST[:1]), np.ones((1, 1, 10)), "ood")
    with pytest.raises(InputError, match="SSD needs 901 train images"):
        SSD(SSDSettings(clusters=901)).fit(ID)
    with pytest.raises(InputError, match="needs 2 train images in the smallest class, there is 1"):
        SSD(SSDSettings(class_conditional=True)).fit(Outputs("t", features=TRAIN[:3], labels=np.arange(3)))


@pytest.mark.parametrize("tied", [False, True])
def test_likelihood_equals_that_of_scipys_normals(tied):
    detector = SSD(SSDSettings(class_conditional=True, tied=tied, ridge=0.0)).fit(ID)
    z, t = coordinates(TEST, TRAIN), coordinates(TRAIN, TRAIN)
    sigmas = [np.cov(t[LABELS == g].T, bias=True) for g in range(3)]
    sigmas = [np.mean(sigmas, axis=0)] * 3 if tied else sigmas
    laws = [multivariate_normal(t[LABELS == g].mean(0), sigma) for g, sigma in enumerate(sigmas)]
    nearest = np.stack([law.logpdf(t) for law in laws]).argmax(0)
    weights = np.bincount(nearest, minlength=3) / len(t)
    expected = np.log(sum(w * law.pdf(z) for w, law in zip(weights, laws, strict=True))).mean()
    assert log_likelihood(detector.state, TRAIN, TEST) == pytest.approx(expected, rel=1e-7)


def test_selection_finds_the_clusters_and_keeps_what_is_not_searched():
    random = np.random.default_rng(1)
    centres = random.normal(size=(4, 6)) * 6
    rows = [(centres[np.arange(n) % 4] + random.normal(size=(n, 6))).astype(np.float32) for n in (800, 200)]
    train, validation = (Outputs(str(len(part)), features=part) for part in rows)
    found, candidates = select_settings(AUTO, train, validation, 0)
    assert found.clusters == 4 and len(candidates) == 9 * 7
    found, candidates = select_settings(replace(AUTO, covariance="ledoit_wolf"), train, validation, 0)
    assert found.clusters == 4 and found.ridge == 0.0 and len(candidates) == 9
    few, several = (Outputs("few", features=train.features[:count]) for count in (12, 40))
    wide = [np.hstack([part.features, random.normal(size=(len(part), 24))]) for part in (several, validation)]
    wide = [Outputs("wide", features=part.astype(np.float32)) for part in wide]
    found = select_settings(replace(AUTO, tied=True), *wide, 0)[0]
    assert found.covariance == "ledoit_wolf", (
        "40 images in 30 dimensions want more than a tenth of their trace"
    )
    assert max(c["clusters"] for c in select_settings(AUTO, few, validation, 0)[1]) <= 10


@pytest.mark.parametrize("what", ["clusters", "covariance", "ridge"])
def test_a_choice_for_classes_that_are_not_there_leaves_the_row_out(what):
    """As `fit` does with every setting given: pictures without labels end no stage."""
    settings = replace(SSDSettings(class_conditional=True), **{what: "auto"})
    for labels, says in (
        (np.full(900, -1), "train: SSD needs 1 labelled class in train, there are 0"),
        (None, "train: SSD needs 1 labelled class in train, there are 0"),
        (np.arange(900) // 899, "train: SSD needs 2 train images in the smallest class, there is 1"),
    ):
        with pytest.raises(LeftOut, match=says):
            select_settings(settings, replace(ID, labels=labels), ID, 0)
