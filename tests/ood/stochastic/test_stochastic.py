"""Detectors on Gaussian embeddings against torch.distributions, scipy and numerical integration."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from sslood.core.errors import InputError
from sslood.nets.networks.build import seeded
from sslood.nets.networks.gaussian import Mixture
from sslood.ood.geometry import nearest_gaussian as nearest
from sslood.ood.geometry.gaussians import (
    DiagonalGaussians,
    bhattacharyya,
    bhattacharyya_bounds,
    bhattacharyya_pairs,
    kl,
    log_density,
    prior_state,
)
from sslood.ood.geometry.nearest_gaussian import NearestSettings
from sslood.ood.kit.outputs import Outputs, Prior, part_of
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.stochastic.kl_prior import KLPriorSettings
from tests.kit.registries import STOCHASTIC

WIDTH = 6
STANDARD = Prior(np.zeros(1, np.float32), *np.zeros((2, 1, WIDTH), np.float32))


def made(n, seed, shift=0.0, prior=STANDARD):
    random = np.random.default_rng(seed)
    mu = (random.normal(size=(n, WIDTH)) + shift).astype(np.float32)
    log_variance = random.uniform(-6, 2, size=(n, WIDTH)).astype(np.float32)
    return Outputs("made", mu=mu, log_variance=log_variance, prior=prior)


TRAIN, TEST = made(300, 0), made(80, 1)


def law(outputs, rows=slice(None)):
    mu, log_variance = (torch.from_numpy(a[rows]).double() for a in (outputs.mu, outputs.log_variance))
    return Independent(Normal(mu, (0.5 * log_variance).exp()), 1)


def gaussians(mu, log_variance):
    return DiagonalGaussians(*(torch.from_numpy(np.asarray(part)).double() for part in (mu, log_variance)))


def fitted(name, train=TRAIN, **settings):
    kind = STOCHASTIC[name]
    settings = {"k": 7} | settings if issubclass(kind, nearest.NearestGaussian) else settings
    return kind(kind.Settings(**settings), seed=3).fit(train)


def mixture():
    with seeded(0):
        module = Mixture(3, WIDTH).double()
    module.weights.data = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    state = {key: value.detach() for key, value in module.state_dict().items()}
    weights = state["weights"].log_softmax(0)
    components = Independent(Normal(state["mu"], (0.5 * state["log_variance"]).exp()), 1)
    theirs = MixtureSameFamily(Categorical(logits=state["weights"]), components)
    return Prior(*(a.numpy() for a in (weights, state["mu"], state["log_variance"]))), theirs


def every_pair(one):
    """Return one(test distribution, all train distributions) for each test image, [80, 300]."""
    return torch.stack([one(law(TEST, slice(i, i + 1)), law(TRAIN)) for i in range(len(TEST))]).numpy()


def test_kl_neighbours_equal_torch_distributions():
    forward = every_pair(lambda x, train: kl_divergence(train, x.expand([300])))
    reverse = every_pair(lambda x, train: kl_divergence(x.expand([300]), train))
    for name, expected in (("kl_knn", forward), ("reverse_kl_knn", reverse)):
        for k in (1, 7, 300):
            found = fitted(name, k=k).score(TEST)
            np.testing.assert_allclose(found, np.sort(expected, 1)[:, k - 1], rtol=1e-10)


def test_euclidean_neighbours_equal_brute_force():
    gaps = TEST.mu[:, None].astype(float) - TRAIN.mu[None]
    expected = np.sort(np.linalg.norm(gaps, axis=2), axis=1)
    np.testing.assert_allclose(fitted("euclidean_knn").score(TEST), expected[:, 6], rtol=1e-12)


def test_kl_and_bhattacharyya_are_their_integrals():
    one, other = norm(0.3, 0.5), norm(-1.0, 1.7)
    p, q = (gaussians([[law.mean()]], np.log([[law.var()]])) for law in (one, other))
    overlap = quad(lambda x: np.sqrt(one.pdf(x) * other.pdf(x)), -12, 12, epsabs=1e-13)[0]
    assert bhattacharyya(p, q).item() == pytest.approx(-np.log(overlap), rel=1e-9)
    assert bhattacharyya(q, p).item() == bhattacharyya(p, q).item()
    gap = quad(lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), -6, 6, epsabs=1e-13)[0]
    assert kl(p, q).item() == pytest.approx(gap, rel=1e-9)
    assert kl(p, p).item() == 0 == bhattacharyya(p, p).item()


def test_bhattacharyya_neighbours_equal_brute_force():
    variance, train = (np.exp(x.log_variance.astype(float)) for x in (TEST, TRAIN))
    mean = (variance[:, None] + train) / 2
    squares = (TEST.mu[:, None].astype(float) - TRAIN.mu) ** 2 / mean / 8
    expected = (squares + np.log(mean / np.sqrt(variance[:, None] * train)) / 2).sum(2)
    found = fitted("bhattacharyya_knn").score(TEST)
    np.testing.assert_allclose(found, np.sort(expected, 1)[:, 6], rtol=1e-10)


@pytest.mark.parametrize("k", [1, 50, 300])
def test_bhattacharyya_neighbours_of_collapsed_embeddings_equal_brute_force(k):
    """Distances of 1e-7, below the digits of float32's sums; those of the other queries are of 1."""
    random = np.random.default_rng(0)
    mu, log_variance = (1e-4 * random.normal(size=(630, 64)) for _ in range(2))
    mu[620:] += 1.0
    one = {"mu": mu.astype(np.float32), "log_variance": log_variance.astype(np.float32)}
    train, test = (part_of(Outputs("a", **one), rows) for rows in (slice(600), slice(600, 630)))
    bank, queries = (gaussians(part.mu, part.log_variance) for part in (train, test))
    expected = torch.stack([bhattacharyya(queries[i : i + 1], bank).sort().values for i in range(30)])
    found = fitted("bhattacharyya_knn", train, k=k).score(test)
    np.testing.assert_allclose(found, expected[:, k - 1], rtol=1e-9)


def spread(n: int, random: np.random.Generator, width: float) -> DiagonalGaussians:
    """Return n Gaussians of 16 dimensions whose log-variances have standard deviation `width`."""
    return gaussians(random.normal(size=(n, 16)), random.normal(-2, width, size=(n, 16)))


@pytest.mark.parametrize("width", [0.0, 0.3, 1.0, 4.0])
def test_no_distance_is_below_its_bound(width):
    random = np.random.default_rng(0)
    bank, queries = spread(400, random, width), spread(50, random, width + 0.5)
    exact = torch.stack([bhattacharyya(queries[i : i + 1], bank) for i in range(50)])
    lowest = bhattacharyya_bounds(queries, bank)
    assert lowest.dtype == torch.float32 and (lowest.double() <= exact).all()
    # tight where variances are alike: the tangents touch, and what rounding might add is all that is left
    middle = queries.log_variance.new_full(bank.log_variance.shape, -2.0)
    alike = DiagonalGaussians(bank.mu, middle)
    exact = torch.stack([bhattacharyya(queries[i : i + 1], alike) for i in range(50)])
    np.testing.assert_allclose(bhattacharyya_bounds(queries, alike).double(), exact, rtol=5e-3)


@pytest.mark.parametrize(("width", "left"), [(0.3, 0), (4.0, 20)])
def test_what_bounds_leave_open_is_ranked_by_pairs(width, left):
    """With variances far apart the bounds are low, and decide nothing."""
    random, kind = np.random.default_rng(0), STOCHASTIC["bhattacharyya_knn"]
    bank, queries = spread(2000, random, width), spread(40, random, width)
    asked = []

    def pairs(queries, bank):
        asked.append(len(queries))
        return bhattacharyya_pairs(queries, bank)

    found = nearest.kth_divergence(bank, queries, 3, pairs, kind.rows, kind.error, bhattacharyya_bounds)
    expected = torch.stack([bhattacharyya(queries[i : i + 1], bank).sort().values[2] for i in range(40)])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert sum(asked) >= left if left else not asked


def test_the_whole_bank_is_ranked_for_unsure_queries_alone():
    ranked = []

    def rows(queries, bank):
        ranked.append(len(bank))
        return bhattacharyya(queries, bank)

    kind = STOCHASTIC["bhattacharyya_knn"]
    bank, queries = (gaussians(part.mu, part.log_variance) for part in (TRAIN, TEST))
    nearest.kth_divergence(bank, queries, 7, kind.pairs, rows, kind.error)
    assert ranked == [80]  # those about the k-th of each query, at once
    same = gaussians(np.repeat(TRAIN.mu[:1], 300, 0), np.repeat(TRAIN.log_variance[:1], 300, 0))
    nearest.kth_divergence(same, queries[:2], 7, kind.pairs, rows, kind.error)
    assert ranked == [80, 2, 300, 300]


@pytest.mark.parametrize("name", ["kl_knn", "reverse_kl_knn", "bhattacharyya_knn", "euclidean_knn"])
def test_blocks_change_nothing(name, monkeypatch):
    whole = fitted(name).score(TEST)
    monkeypatch.setattr(nearest, "QUERIES", 9)
    monkeypatch.setattr(nearest, "BANK", 32)
    np.testing.assert_allclose(fitted(name).score(TEST), whole, rtol=1e-12)


@pytest.mark.parametrize("name", ["kl_knn", "reverse_kl_knn"])
def test_products_of_extreme_gaussians_find_the_right_neighbours(name):
    """At the limits of the heads (mu 20, sigma 0.01) squares over variances reach 10^6 a dimension."""
    random = np.random.default_rng(0)
    mu = (random.choice([-20, 20], size=(200, 64)) + random.normal(size=(200, 64))).astype(np.float32)
    log_variance = np.full((200, 64), 2 * np.log(0.01), np.float32) + random.uniform(0, 1e-3, size=(200, 64))
    close = (mu + 1e-3 * random.normal(size=mu.shape)).astype(np.float32)
    train = Outputs("made", mu=mu, log_variance=log_variance.astype(np.float32))
    found = fitted(name, train, k=1).score(Outputs("made", mu=close, log_variance=train.log_variance))
    rows = gaussians(mu, train.log_variance), gaussians(close, train.log_variance)
    expected = kl(*(rows if name == "kl_knn" else rows[::-1]))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9)


def test_log_prior_equals_torch_distributions():
    mu = torch.from_numpy(TEST.mu).double()
    expected = -Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1).log_prob(mu).numpy()
    np.testing.assert_allclose(fitted("log_prior").score(TEST), expected, rtol=1e-12)
    prior, theirs = mixture()
    train = made(300, 0, prior=prior)
    found = fitted("log_prior", train).score(TEST)
    state = {key: torch.from_numpy(array) for key, array in prior_state(train).items()}
    np.testing.assert_allclose(found, -theirs.log_prob(mu).numpy(), rtol=1e-12)
    np.testing.assert_allclose(log_density(mu, state), -found, rtol=1e-12)


def test_kl_to_a_gaussian_prior_is_exact():
    plain = Independent(Normal(torch.zeros(WIDTH).double(), torch.ones(WIDTH).double()), 1)
    expected = kl_divergence(law(TEST), plain.expand([len(TEST)])).numpy()
    np.testing.assert_allclose(fitted("kl_prior").score(TEST), expected, rtol=1e-12)


def test_kl_to_a_mixture_is_near_its_integral():
    prior, theirs = mixture()
    train = made(300, 0, prior=prior)
    found = fitted("kl_prior", train, samples=4000).score(TEST)
    # 40,000 draws of their own for each image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = law(TEST).sample([40000])
    terms = law(TEST).log_prob(draws) - theirs.log_prob(draws)
    error = theirs.log_prob(draws[:4000]).std(0) / 4000**0.5
    assert (np.abs(found - terms.mean(0).numpy()) < 5 * error.numpy()).all()
    # a mixture of equal components is one Gaussian, whose divergence has a closed form
    flat = Prior(np.log([0.5, 0.5]), *np.zeros((2, 2, WIDTH)))
    exact = fitted("kl_prior").score(TEST)
    estimate = fitted("kl_prior", made(300, 0, prior=flat), samples=20000).score(TEST)
    np.testing.assert_allclose(estimate, exact, rtol=0.05, atol=0.2)


def test_sigma_is_in_units_of_the_embedding():
    sigma = np.array([[1.0, 3.0], [2.0, 2.0]])
    outputs = Outputs("made", mu=np.zeros((2, 2)), log_variance=2 * np.log(sigma), prior=STANDARD)
    np.testing.assert_allclose(fitted("sigma_mean", outputs).score(outputs), [2, 2], rtol=1e-12)
    np.testing.assert_allclose(fitted("sigma_spread", outputs).score(outputs), [1, 0], atol=1e-12)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_contract(name, components):
    prior = STANDARD if components == 1 else mixture()[0]
    detector = fitted(name, made(300, 0, prior=prior))
    scores = detector.score(TEST)
    assert scores.shape == (80,) and scores.dtype == np.float64 and np.isfinite(scores).all()
    part = Outputs("part", mu=TEST.mu[5:9], log_variance=TEST.log_variance[5:9])
    np.testing.assert_allclose(detector.score(part), scores[5:9], rtol=1e-9, err_msg="depends on the batch")
    again = type(detector)(detector.settings, seed=3).restore(detector.state, detector.widths)
    np.testing.assert_array_equal(again.score(TEST), scores)
    assert not detector.suits(Outputs("plain", features=TEST.mu))
    with pytest.raises(InputError, match="reads mu, which this model does not have"):
        detector.score(Outputs("plain", features=TEST.mu))


@pytest.mark.parametrize("name", sorted(STOCHASTIC.keys() - {"sigma_mean", "sigma_spread"}))
def test_embeddings_far_from_train_and_prior_are_more_ood(name):
    far = made(60, 2, shift=9.0)
    detector = fitted(name)
    assert ood_metrics(detector.score(TEST), detector.score(far))["auroc"] > 0.98


def test_larger_and_more_uneven_sigma_is_more_ood():
    for name, change in (("sigma_mean", 1.0), ("sigma_spread", np.linspace(-1, 1, WIDTH))):
        base = Outputs("made", mu=TEST.mu, log_variance=np.zeros_like(TEST.mu))
        other = Outputs("made", mu=TEST.mu, log_variance=base.log_variance + change)
        detector = fitted(name, base)
        assert (detector.score(other) > detector.score(base)).all(), name


def test_refusals():
    with pytest.raises(InputError, match="needs 301 train images, there are 300"):
        fitted("kl_knn", k=301).score(TEST)
    without = Outputs("old", mu=TRAIN.mu, log_variance=TRAIN.log_variance)
    for name in ("log_prior", "kl_prior"):
        with pytest.raises(InputError, match="without the model's prior; run `dvc repro embed`"):
            fitted(name, without)
    for settings in (lambda: NearestSettings(k=0), lambda: KLPriorSettings(samples=0)):
        with pytest.raises(InputError, match="must be at least 1, found 0"):
            settings()
