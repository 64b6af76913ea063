"""Detectors that step the image or take a direction from the maps, against pytorch-ood and transcriptions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from scipy.special import logsumexp, softmax

from sslood.core.errors import InputError
from sslood.ood.geometry.shaping import ratio
from sslood.ood.kit.network_detector import Network
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.network.adascale_a import AdaSCALEA, AdaSCALESettings, adaptive_ratio
from sslood.ood.network.adascale_l import AdaSCALEL
from sslood.ood.network.iodin import IODIN, IODINSettings
from sslood.ood.network.rankfeat import RankFeat, RankFeatSettings, without_first
from tests.kit.network import IMAGES, MEAN, STD, TEST, normalised, opened, small_model

MODEL = small_model().double()
NETWORK = opened(MODEL)


@pytest.mark.parametrize("temperature, epsilon", [(1.0, 0.0028), (100.0, 0.05)])
def test_iodin_moves_the_value_that_matters_most(temperature, epsilon):
    """The gradient is taken by central differences."""
    x = normalised(TEST[:3], torch.float64)
    predicted = MODEL(x).argmax(1)

    def loss(moved):
        return torch.nn.functional.cross_entropy(MODEL(moved) / temperature, predicted, reduction="none")

    h, steps = 1e-5, torch.eye(x[0].numel(), dtype=torch.float64).view(-1, *x[0].shape)
    gradient = torch.stack([(loss(x + h * e) - loss(x - h * e)) / (2 * h) for e in steps], 1)
    expected = x.clone().flatten(1)
    for image, place in enumerate(gradient.abs().argmax(1)):
        std = STD[place // 64]
        expected[image, place] -= epsilon / std * gradient[image, place].sign()
    p = softmax(MODEL(expected.view_as(x)).numpy() / temperature, axis=1)
    found = IODIN(IODINSettings(temperature, epsilon)).fit(NETWORK, {}).score(NETWORK, TEST[:3])
    np.testing.assert_allclose(found, 1 / 4 - p.max(1), rtol=1e-9)


def test_iodins_temperature_is_the_best_on_validation():
    detector = IODIN().fit(NETWORK, IMAGES)
    tried = detector.chosen["temperature"]["candidates"]
    for one in tried:
        alone = IODIN(IODINSettings(one["temperature"])).fit(NETWORK, IMAGES)
        scores = (alone.score(NETWORK, IMAGES[split]) for split in ("validation", "tuning"))
        assert one["auroc"] == ood_metrics(*scores)["auroc"]
    best = max(tried, key=lambda one: one["auroc"])
    assert detector.settings == IODINSettings(best["temperature"], 0.0014)


def test_rankfeat_equals_pytorch_ood():
    x = normalised(TEST, torch.float64)
    theirs = peer.RankFeat(lambda x: MODEL.second(MODEL.first(x)), MODEL.head).predict(x)
    ours = RankFeat(RankFeatSettings(1)).fit(NETWORK, {}).score(NETWORK, TEST)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)
    logits = []
    for before, after in ((MODEL.first, lambda a: MODEL.head(MODEL.second(a))),
                          (lambda x: MODEL.second(MODEL.first(x)), MODEL.head)):  # fmt: skip
        kept = []  # the detector of a peer gets the logits
        peer.RankFeat(before, after, lambda found, kept=kept: kept.append(found) or found).predict(x)
        logits += kept
    ours = RankFeat().fit(NETWORK, {}).score(NETWORK, TEST)
    np.testing.assert_allclose(ours, -logsumexp(np.mean(torch.stack(logits).numpy(), 0), axis=1), rtol=1e-8)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 30, 2, 2)])
def test_what_is_left_without_the_first_direction(shape):
    maps = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = torch.linalg.svdvals(without_first(maps).flatten(2))
    expected = torch.linalg.svdvals(maps.flatten(2))
    torch.testing.assert_close(found[:, :-1], expected[:, 1:])
    one = torch.outer(torch.rand(shape[1]), torch.rand(shape[2] * shape[3])).view(1, *shape[1:])
    torch.testing.assert_close(without_first(one), torch.zeros_like(one), atol=1e-6, rtol=0)
    assert not without_first(torch.zeros(1, *shape[1:])).any()


class Wide:
    """150 rectified features of the pixels and 5 classes: gradients can be written down."""

    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(150, 128)) / 10, rng.normal(size=(5, 150))
    b = rng.normal(size=150) / 5

    def features(self, x):
        return np.maximum(x @ self.w.T + self.b, 0)

    def network(self):
        w, v, b = (torch.from_numpy(part) for part in (self.w, self.v, self.b))
        return Network(
            MEAN, STD, stages=lambda x, changes: ([], (x.flatten(1) @ w.T + b).relu()),
            head=lambda z: z @ v.T, dtype=torch.float64,
        )  # fmt: skip


def reference(images, validation, high, *, scales_logits, k1=0.01, k2=0.05):
    """Return AdaSCALE's score by the authors' formula, with gradients in closed form."""
    net = Wide()

    def measured(images):
        x = normalised(images, torch.float64).flatten(1).numpy()
        z = net.features(x)
        gradient = ((z > 0) * net.v[(z @ net.v.T).argmax(1)]) @ net.w
        moved = x.copy()
        for row, g in zip(moved, gradient, strict=True):
            least = np.argsort(np.abs(g))[: int(128 * 0.05)]
            row[least] += 0.5 * np.sign(g[least])
        after = net.features(moved)
        order = np.argsort(-z, axis=1)
        shifts = np.take_along_axis(np.abs(z - after), order[:, : int(150 * k1)], 1).sum(1)
        values = np.take_along_axis(after, order[:, : int(150 * k2)], 1).sum(1)
        return z, 10 * shifts + values

    z, q = measured(images)
    known = measured(validation)[1]
    f = np.array([(known <= one).mean() for one in q])
    percent = 60 + (1 - f) * (100 * high - 60)
    scores = []
    for row, p in zip(z, percent, strict=True):
        kept = 150 - round(150 * p / 100)
        r = row.sum() / np.sort(row)[-kept:].sum()
        logits = (net.v @ row) * r**2 if scales_logits else net.v @ (row * np.exp(r))
        scores.append(-logsumexp(logits))
    return np.array(scores)


@pytest.mark.parametrize("kind", [AdaSCALEA, AdaSCALEL])
def test_adascale_is_its_formula_after_the_erratum(kind):
    """OpenOOD's code has k1 and k2 the other way round: that gives other scores."""
    network = Wide().network()
    found = kind(AdaSCALESettings(high=0.85)).fit(network, IMAGES).score(network, TEST)
    logits = kind is AdaSCALEL
    expected = reference(TEST, IMAGES["validation"], 0.85, scales_logits=logits)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    swapped = reference(TEST, IMAGES["validation"], 0.85, scales_logits=logits, k1=0.05, k2=0.01)
    assert not np.allclose(found, swapped, rtol=1e-4)


def test_adascale_tries_no_high_below_its_low():
    fitted = AdaSCALEA(AdaSCALESettings(low=0.8)).fit(NETWORK, IMAGES)
    tried = {one["high"]: one["auroc"] for one in fitted.chosen["high"]["candidates"]}
    assert [high for high, auroc in tried.items() if auroc is None] == [0.65, 0.7, 0.75]
    assert fitted.settings.high >= 0.8


def test_adascale_chooses_high_and_shares_the_passes():
    network, calls = Wide().network(), []
    stages = network.stages
    counted = replace(network, stages=lambda x, changes: calls.append(len(x)) or stages(x, changes))
    first = AdaSCALEA().fit(counted, IMAGES)
    passes = len(calls)
    second = AdaSCALEL().fit(counted, IMAGES)
    assert len(calls) == passes, "the images were passed again"
    for detector in (first, second):
        tried = detector.chosen["high"]["candidates"]
        for one in tried[::3]:
            alone = type(detector)(AdaSCALESettings(high=one["high"])).fit(network, IMAGES)
            scores = (alone.score(network, IMAGES[split]) for split in ("validation", "tuning"))
            assert one["auroc"] == ood_metrics(*scores)["auroc"]
        assert detector.settings.high == max(tried, key=lambda one: one["auroc"])["high"]


def test_an_adaptive_ratio_of_equal_shares_is_the_usual_one():
    rows = torch.rand(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for pruned in (0.5, 0.8, 0.999):
        found = adaptive_ratio(rows, torch.full((6,), pruned, dtype=torch.float64))
        torch.testing.assert_close(found, ratio(rows, pruned))
    assert adaptive_ratio(torch.zeros(1, 8), torch.tensor([0.9])).item() == 1


def test_refuses():
    with pytest.raises(InputError, match="high must be at least low, 0.6, found 0.5"):
        AdaSCALESettings(high=0.5)
    with pytest.raises(InputError, match="moved must be above 0 and below 1"):
        AdaSCALESettings(moved=1.0)
    with pytest.raises(InputError, match="stages must be at least 1"):
        RankFeatSettings(0)
    with pytest.raises(InputError, match="temperature must be above 0"):
        IODINSettings(0.0)
    with pytest.raises(InputError, match="AdaSCALEA reads stages, which this model does not have"):
        AdaSCALEA().fit(Network(MEAN, STD, head=MODEL.head), IMAGES)
