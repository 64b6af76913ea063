"""SSD_k as a likelihood ratio: scipy's normals, closed forms, and few images of many dimensions."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from sslood.ood.ssd.ratio import CANDIDATES, LONE, FewShot, LikelihoodRatio, beaten, fit_known
from sslood.ood.ssd.ssdk import PaperForm, fit_in_distribution

WIDTH = 8


def drawn(count, width=WIDTH, shift=0.0, scale=1.0, seed=0):
    """Rows with a steep spectrum around a common direction, as features after a ReLU have one."""
    spread = np.exp(-np.arange(width) / (width / 4))
    rows = np.random.default_rng(seed).normal(size=(count, width)) * scale + shift
    return (10.0 + rows * spread).astype(np.float32)


TRAIN, VALIDATION, TEST = drawn(900), drawn(300, seed=1), drawn(200, shift=0.5, scale=2.0, seed=2)


def form_of(train=TRAIN, validation=VALIDATION, clusters=1):
    return LikelihoodRatio(fit_in_distribution(train, clusters, 0, "train"), validation)


def coordinates(rows):
    rows, train = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1)[:, None] for x in (rows, TRAIN))
    return (rows - train.mean(0)) / train.std(0)


@pytest.mark.parametrize("count, copies", [(2, 1), (4, 5)], ids=["fewer than dimensions", "more"])
@pytest.mark.parametrize("share", [0.0, 0.3, 3.0])
def test_the_score_is_twice_the_log_likelihood_ratio_of_two_normals(count, copies, share):
    form, breadth = form_of(), 1.5
    rows, views = form.rows(TEST), np.repeat(TEST[:count, None], copies, axis=1)
    views = views + np.random.default_rng(3).normal(size=views.shape).astype(np.float32) / 50
    known = fit_known(rows.white[:count], form.white(views))
    found = FewShot(known, form.level, (breadth, share)).score(rows)

    t, z, v = coordinates(TRAIN), coordinates(TEST), coordinates(VALIDATION)
    images, sigma = z[:count], ledoit_wolf(t)[0]
    every = np.concatenate([images[:, None], coordinates(views.reshape(-1, WIDTH)).reshape(views.shape)], 1)
    gaps = every.reshape(-1, WIDTH) - images.mean(0)
    level = np.mean(np.sum(v * np.linalg.solve(sigma, v.T).T, 1)) / WIDTH
    inside = multivariate_normal(np.zeros(WIDTH), level * sigma)
    outside = multivariate_normal(images.mean(0), breadth * level * sigma + share * gaps.T @ gaps / len(gaps))
    np.testing.assert_allclose(found, 2 * (outside.logpdf(z) - inside.logpdf(z)), rtol=1e-6, atol=1e-8)


def test_without_a_share_of_the_shots_it_is_the_distance_from_a_centre_moved_away_from_them():
    form = form_of()
    rows, breadth = form.rows(TEST), 2.0
    known = fit_known(rows.white[:5], form.white(TEST[:5, None]))
    found = FewShot(known, form.level, (breadth, 0.0)).score(rows)
    moved = np.sum((rows.white + known.mean / (breadth - 1)) ** 2, 1) * (1 - 1 / breadth) / form.level
    np.testing.assert_allclose(found - found[0], moved - moved[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("candidate", [CANDIDATES[0], CANDIDATES[-1], LONE])
def test_far_away_in_any_direction_is_ood(candidate):
    """What the paper's form lacks: beyond its sphere around the shots, every image is ID."""
    form, random = form_of(), np.random.default_rng(4)
    rows = form.rows(TEST)
    known = fit_known(rows.white[:5], form.white(TEST[:5, None]))
    far = 1e4 * np.vstack([random.normal(size=(50, WIDTH)), known.mean, -known.mean])
    square = (far**2).sum(1)
    score = square / form.level - known.surprise(known.split(far), candidate[0] * form.level, candidate[1])
    assert (score > FewShot(known, form.level, candidate).score(rows).max()).all()


def test_several_clusters_are_a_mixture_of_which_the_likeliest_counts():
    train = np.concatenate([drawn(500, shift=-3), drawn(500, shift=3, seed=5)])
    form, inside = form_of(train, train[::3], clusters=2), fit_in_distribution(train, 2, 0, "train")
    rows, distances = form.rows(TEST), inside.distances(TEST)
    np.testing.assert_allclose(rows.distance, inside.distance(TEST), rtol=1e-12)
    scale = inside.distance(train[::3]).mean() / WIDTH
    dets = [
        np.linalg.slogdet(scale * np.linalg.inv(g.whitening.T @ g.whitening))[1] for g in inside.gaussians
    ]
    whole = -np.linalg.slogdet(inside.whole.whitening.T @ inside.whole.whitening)[1]
    np.testing.assert_allclose(rows.surprise, (distances / scale + dets).min(1) - whole, rtol=1e-9, atol=1e-9)


def test_the_breadth_is_found_and_copies_that_say_nothing_get_no_share():
    """Known images from three times the ID covariance, their copies far away along one axis."""
    form, random = form_of(), np.random.default_rng(6)
    white = random.normal(size=(60, WIDTH)) * np.sqrt(3 * form.level)
    images = form.rows(TEST[:60])
    images = type(images)(white, (white**2).sum(1), (white**2).sum(1) / form.level)
    copies = white[:, None] + 30 * np.eye(WIDTH)[0] * random.normal(size=(60, 4, 1))
    assert form.fit_white(images, copies).candidate == (3.0, 0.0)
    copies = white[:, None].repeat(4, 1)
    breadth, share = form.fit_white(images, copies).candidate
    assert breadth + share * 3 == pytest.approx(3, abs=1), "the shots' own covariance is three times ID's too"


def test_ssd_takes_over_where_it_tells_left_out_images_better():
    """Known images on both sides of ID: each one that is left out lies opposite to the others."""
    form = form_of()
    side = np.zeros((2, WIDTH))
    side[:, 0] = 4.0, -4.0
    images = form.rows(TEST[:2])
    images = type(images)(side, (side**2).sum(1), (side**2).sum(1) / form.level)
    fitted = form.fit_white(images, side[:, None])
    assert fitted.fallen_back and fitted.held_out < fitted.held_out_ssd
    rows = form.rows(TEST)
    np.testing.assert_array_equal(fitted.score(rows), rows.distance)
    assert fitted.record()["used"] == "ssd"


def test_images_that_are_more_alike_than_id_are_told_though_ssd_is_below_chance():
    form, random = form_of(), np.random.default_rng(8)
    near = random.normal(size=(106, WIDTH)) / 5
    rows = type(form.validation)(near, (near**2).sum(1), (near**2).sum(1) / form.level)
    fitted = form.fit_white(rows[np.arange(6)], near[:6, None])
    assert fitted.candidate[0] < 1 and not fitted.fallen_back
    assert beaten(form.validation.distance, rows.distance).mean() < 0.1
    assert beaten(fitted.score(form.validation), fitted.score(rows)[6:]).mean() > 0.9


def test_a_single_image_is_not_left_out():
    form = form_of()
    fitted = form.fit(form.rows(TEST[:1]), TEST[:1, None], "ood")
    assert fitted.candidate == LONE and not fitted.fallen_back
    assert fitted.record()["held_out"] is None


def test_the_share_of_images_below_is_the_auroc():
    random = np.random.default_rng(7)
    inside, outside = random.integers(0, 9, 50).astype(float), random.integers(2, 12, 30).astype(float)
    expected = roc_auc_score(np.repeat([0, 1], [50, 30]), np.concatenate([inside, outside]))
    assert beaten(inside, outside).mean() == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize("width", [64, 640])
def test_few_images_of_many_dimensions(width, count):
    """OOD images are wider than ID along some directions and shifted: SSD sees it, and few of them help."""
    random = np.random.default_rng(width + count)
    common = random.normal(size=(3, width)) / 4

    def ood(rows, seed):
        own = np.random.default_rng(seed).normal(size=(rows, 3)) + 1.0
        return (drawn(rows, width, 0.1, 1.05, seed) + own @ common * 0.05).astype(np.float32)

    train, validation, test = (drawn(rows, width, seed=seed) for rows, seed in ((700, 0), (200, 1), (200, 2)))
    inside, images, far = fit_in_distribution(train, 1, 0, "train"), ood(count, 8), ood(200, 9)
    copies = images[:, None] + random.normal(size=(count, 10, width)) / 20
    found = {}
    for name, form in (("paper", PaperForm(inside)), ("ratio", LikelihoodRatio(inside, validation))):
        fitted = form.fit(form.rows(images), copies.astype(np.float32), "ood")
        found[name] = beaten(fitted.score(form.rows(test)), fitted.score(form.rows(far))).mean()
    found["ssd"] = beaten(inside.distance(test), inside.distance(far)).mean()
    margin = 0.06 if count == 2 else 0.01  # two images may by chance mislead
    assert found["ratio"] > found["paper"] and found["ratio"] > found["ssd"] - margin, found
