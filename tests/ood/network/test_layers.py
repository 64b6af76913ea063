"""Detectors of several layers and of dropout, against scikit-learn, pytorch-ood and transcriptions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from pytorch_ood.detector.nac import _bin_indices_geometric
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.neighbors import NearestNeighbors

from sslood.core.errors import InputError, LeftOut
from sslood.core.seeding import numpy_stream
from sslood.ood.kit.network_choice import choose
from sslood.ood.kit.network_detector import NetworkDetector, score_together
from sslood.ood.kit.network_evaluation import evaluate_network
from sslood.ood.kit.network_layers import _standard
from sslood.ood.kit.perturbation import choose_epsilon
from sslood.ood.kit.results import Results
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.network.knn_layers import KNNLayers, KNNLayersSettings
from sslood.ood.network.mahalanobis_layers import MahalanobisLayers, MahalanobisLayersSettings
from sslood.ood.network.mc_dropout import MCDropout, MCDropoutSettings
from sslood.ood.network.nac import NAC, NACSettings, binned
from tests.kit.network import IMAGES, TEST, normalised, opened, small_model

MODEL = small_model().double()
NETWORK = opened(MODEL)
LAYERS = (0.0, 0.5, 1.0)


def layers(images):
    """Return the pooled maps of both layers: float64 [N, 5] and [N, 7]."""
    a = MODEL.first(normalised(images, torch.float64))
    return [a.mean((2, 3)).numpy(), MODEL.second(a).mean((2, 3)).numpy()]


def standardised(scores, held):
    return (scores - held.mean()) / held.std()


@pytest.mark.parametrize("decay", LAYERS)
def test_knn_layers_is_the_sum_of_scikit_learns_distances(decay):
    expected = 0
    for place, (train, held, test) in enumerate(
        zip(*(layers(part) for part in (IMAGES["train"], IMAGES["validation"], TEST)), strict=True)
    ):
        train, held, test = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (train, held, test))
        near = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(train)
        held, test = (near.kneighbors(z)[0][:, 2] for z in (held, test))
        expected = expected + (decay if place == 0 else 1) * standardised(test, held)
    found = KNNLayers(KNNLayersSettings(3, decay)).fit(NETWORK, IMAGES).score(NETWORK, TEST)
    np.testing.assert_allclose(found, expected, atol=1e-4)  # the bank is float32


@pytest.mark.parametrize("decay", LAYERS)
def test_mahalanobis_layers_is_the_sum_of_pytorch_oods(decay):
    """Theirs has half the square, and the scatter in place of the covariance: standardised it is the same."""
    predicted = MODEL(normalised(IMAGES["train"], torch.float64)).argmax(1)
    train, held, test = (layers(part) for part in (IMAGES["train"], IMAGES["validation"], TEST))
    expected = 0
    for place in (0, 1):
        theirs = peer.MultiMahalanobis([torch.nn.Identity()])
        theirs.fit_structured([torch.from_numpy(train[place]).float()], predicted)
        rows = (torch.from_numpy(part[place]).float() for part in (test, held))
        scores = [theirs.predict_structured([row]).numpy() for row in rows]
        expected = expected + (decay if place == 0 else 1) * standardised(*scores)
    settings = MahalanobisLayersSettings(ridge=1e-9, beta=0.0, decay=decay)
    found = MahalanobisLayers(settings).fit(NETWORK, IMAGES).score(NETWORK, TEST)
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_a_class_that_is_never_predicted_has_no_mean():
    lonely = replace(NETWORK, head=lambda z: MODEL.head[2](z) + torch.tensor([0, 1e6, 0, -1e6]))
    detector = MahalanobisLayers().fit(lonely, IMAGES)
    assert detector.state["0.means"].shape == (1, 5)


def test_layers_choose_on_validation_and_read_the_images_once():
    calls = []
    counted = replace(NETWORK, stages=lambda x, changes: calls.append(1) or NETWORK.stages(x, changes))
    auto = MahalanobisLayersSettings(beta="auto", decay="auto")
    detector = MahalanobisLayers(auto).fit(counted, IMAGES)
    passes = len(calls)
    assert passes == 3 + 1 + 1  # batches of train, validation, tuning
    nearest = KNNLayers(KNNLayersSettings("auto", "auto")).fit(counted, IMAGES)
    assert len(calls) == passes
    score_together({"a": detector, "b": nearest}, counted, TEST)
    assert len(calls) == passes + 1
    tried = detector.chosen["decay"]["candidates"]
    assert len(tried) == 16
    for one in tried[::5]:
        given = replace(auto, beta=one["beta"], decay=one["decay"])
        alone = MahalanobisLayers(given).fit(NETWORK, IMAGES)
        scores = (alone.score(NETWORK, IMAGES[split]) for split in ("validation", "tuning"))
        assert one["auroc"] == pytest.approx(ood_metrics(*scores)["auroc"], abs=1e-9)
    best = max(tried, key=lambda one: one["auroc"])
    assert (detector.settings.beta, detector.settings.decay) == (best["beta"], best["decay"])


@pytest.mark.parametrize("count", [1, 3, 7, 10, 100])
def test_layers_whose_validation_scores_are_equal_are_not_divided_by_rounding(count):
    same = np.array([np.full(count, 0.1), np.full(count, 0.7), np.zeros(count)])
    np.testing.assert_array_equal(_standard(same)[1], 1.0)
    images = IMAGES | {"validation": np.repeat(IMAGES["validation"][:1], count, axis=0)}
    detector = KNNLayers(KNNLayersSettings(3, 1.0)).fit(NETWORK, images)
    np.testing.assert_array_equal(detector.state["spread"], 1.0)


def test_too_few_images_leave_a_row_out():
    images = {split: part[:20] for split, part in IMAGES.items()}
    with pytest.raises(LeftOut, match="KNNLayers needs 50 train images, there are 20"):
        KNNLayers().fit(NETWORK, images)
    results = Results("network", 0, "id")
    tests = {"id": TEST, "far": TEST[:30]}
    rows = {"knn_layers": KNNLayers(), "nac": NAC(), "mc_dropout": MCDropout(MCDropoutSettings(score="msp"))}
    del images["tuning"]
    evaluate_network("m", NETWORK, rows, images, tests, results, lambda count: None)
    assert set(results.models["m"]) == {"mc_dropout"}
    assert {row["detector"]: row["reason"] for row in results.left_out} == {
        "knn_layers": "needs 50 train images, there are 20",
        "nac": "chooses its settings on a set with role tuning, and there is none",
    }


def test_candidates_that_the_images_do_not_allow_are_not_chosen():
    few = {split: part[:40] for split, part in IMAGES.items()}
    chosen = KNNLayers(KNNLayersSettings("auto", 0.5)).fit(NETWORK, few)
    tried = chosen.chosen["k"]["candidates"]
    assert [one["k"] for one in tried] == [1, 10, 50] and tried[2]["auroc"] is None
    for one in tried[:2]:
        alone = KNNLayers(KNNLayersSettings(one["k"], 0.5)).fit(NETWORK, few)
        scores = (alone.score(NETWORK, few[split]) for split in ("validation", "tuning"))
        assert one["auroc"] == pytest.approx(ood_metrics(*scores)["auroc"], abs=1e-9)
    assert chosen.settings.k == max(tried[:2], key=lambda one: one["auroc"])["k"]


def test_a_row_without_a_possible_candidate_is_left_out():
    def refuse(settings, split):
        raise InputError(f"k is {settings.k}")

    with pytest.raises(LeftOut, match="k is 50"):
        choose(KNNLayersSettings("auto"), KNNLayers.space, refuse)


@pytest.mark.parametrize("split", ["validation", "tuning"])
def test_nan_among_the_scores_of_a_choice_names_the_split_and_costs_the_row_alone(split):
    broken = {"validation": 0, "tuning": 0, split: np.nan}
    said = f"30 of 30 scores of '{split}' are NaN, which no metric counts"
    with pytest.raises(LeftOut, match=said):
        choose(KNNLayersSettings("auto"), KNNLayers.space, lambda _, of: np.full(30, 1.0 * broken[of]))
    with pytest.raises(LeftOut, match=said):
        choose_epsilon([0.0], [np.full(30, 1.0 * broken["validation"])], [np.full(30, broken["tuning"])])


def test_scores_that_are_not_finite_cost_their_row_alone():
    class Endless(NetworkDetector):
        reads = ("gradients",)

        def _score(self, network, batch, state):
            return torch.full((len(batch),), torch.inf)

    results = Results("network", 0, "id")
    rows = {"endless": Endless(), "mc_dropout": MCDropout(MCDropoutSettings(score="msp"))}
    tests = {"id": TEST, "far": TEST[:30]}
    evaluate_network("m", NETWORK, rows, IMAGES, tests, results, lambda count: None)
    assert set(results.models["m"]) == {"mc_dropout"} and "mc_dropout.score" in results.chosen
    (row,) = results.left_out
    assert (row["detector"], row["reason"][:43]) == ("endless", "60 of 60 scores of 'id' are NaN or infinite")


def coverage(train, test, alpha, count, fill):
    """Return the coverage of one layer's states as the authors' code computes it, [N]."""
    num = count // 2
    left = np.emath.logn(1e3, np.linspace(1, np.sqrt(1e3), num=num))
    thresholds = np.concatenate([left[:-1], (1 - left)[::-1]])
    thresholds[-1] += 1e-2
    thresholds = np.append(thresholds, 1.2)[:, None]

    def active(states):
        s = 1 / (1 + np.exp(-alpha * states))[:, None]
        return (s >= thresholds[:-1]) & (s < thresholds[1:])

    covered = np.minimum(active(train).sum(0) / fill, 1)
    return (active(test) * covered).sum(1).mean(1)


def products(images):
    """Return z times the gradient of KL(uniform || p), both summed over the map, by central differences."""
    x = normalised(images, torch.float64)

    def divergence(a=0, b=0):
        logits = MODEL.head(MODEL.second(MODEL.first(x) + a) + b) if not torch.is_tensor(b) else None
        logits = MODEL.head[2]((MODEL.second(MODEL.first(x))).mean((2, 3)) + b) if logits is None else logits
        return -logits.log_softmax(1).mean(1)

    h, found = 1e-6, []
    for width, place in ((5, "a"), (7, "b")):
        columns = []
        for unit in torch.eye(width, dtype=torch.float64):
            step = h * (unit.view(-1, 1, 1) if place == "a" else unit)
            columns.append((divergence(**{place: step}) - divergence(**{place: -step})) / (2 * h))
        found.append(torch.stack(columns, 1).numpy())
    a, b = layers(images)
    return [a * 64 * found[0], b * found[1]]  # the first map has 64 places


def test_nac_is_the_authors_and_not_pytorch_oods():
    """Theirs pools the product instead of its factors, and its bins are dense at 0 and 1."""
    settings = NACSettings(images=300, alpha=3.0, bins=50, fill=5, decay=0.5)
    found = NAC(settings).fit(NETWORK, IMAGES).score(NETWORK, TEST)
    few = np.linspace(0, 699, 300).round().astype(int)
    first, last = (
        coverage(train, test, 3 / np.abs(train).mean(), 50, 5)
        for train, test in zip(products(IMAGES["train"][few]), products(TEST), strict=True)
    )
    np.testing.assert_allclose(found, -0.5 * first - last, atol=2e-3)  # of a state on an edge
    assert np.median(np.abs(found + 0.5 * first + last)) < 1e-12
    middle = torch.linspace(-0.4, 0.4, 41)[:, None]
    assert len(binned(middle.double(), 1.0, 50).unique()) > 20
    assert len(_bin_indices_geometric(middle.sigmoid(), 50).unique()) <= 3


def test_a_neuron_at_zero_has_the_bin_above_the_middle():
    rows = torch.tensor([[-1e-3], [0.0], [1e-3]], dtype=torch.float64)
    below, zero, above = binned(rows, 1.0, 50)[:, 0]
    assert below + 1 == zero == above == 24


def test_nac_chooses_on_validation():
    detector = NAC().fit(NETWORK, IMAGES)
    tried = detector.chosen["alpha"]["candidates"]
    best = max(tried, key=lambda one: one["auroc"])
    assert vars(detector.settings) == {"images": 1000, "bins": 50} | {name: best[name] for name in NAC.space}
    one = tried[-1]
    given = NACSettings(alpha=one["alpha"], fill=one["fill"], decay=one["decay"])
    alone = NAC(given).fit(NETWORK, IMAGES)
    scores = (alone.score(NETWORK, IMAGES[split]) for split in ("validation", "tuning"))
    assert one["auroc"] == ood_metrics(*scores)["auroc"]


def test_mc_dropout_is_a_score_of_masked_features():
    z, w = layers(TEST)[1], MODEL.head[2]
    masks = (numpy_stream(0, "dropout").random((8, 7)) >= 0.4) / 0.6
    logits = (z[None] * masks[:, None]) @ w.weight.double().numpy().T + w.bias.double().numpy()
    p = softmax(logits, axis=2)
    expected = entropy(p, p.mean(0)[None].repeat(8, 0), axis=2).mean(0)
    settings = MCDropoutSettings(draws=8, rate=0.4, score="mutual_information")
    np.testing.assert_allclose(MCDropout(settings).fit(NETWORK, {}).score(NETWORK, TEST), expected, rtol=1e-6)
    none = MCDropout(replace(settings, rate=1e-9)).fit(NETWORK, {}).score(NETWORK, TEST)
    np.testing.assert_allclose(none, 0, atol=1e-12)


def test_a_networks_own_dropout_is_what_mc_dropout_draws():
    drawn = []
    own = replace(NETWORK, dropped=lambda x, draw: drawn.append(draw) or MODEL(x) + draw)
    found = MCDropout(MCDropoutSettings(draws=3, score="msp")).fit(own, {}).score(own, TEST)
    p = softmax(MODEL(normalised(TEST, torch.float64)).numpy(), axis=1)
    assert drawn == [0, 1, 2]
    np.testing.assert_allclose(found, -p.max(1))


def test_mc_dropout_chooses_the_score_on_validation():
    detector = MCDropout().fit(NETWORK, IMAGES)
    for one in detector.chosen["score"]["candidates"]:
        alone = MCDropout(MCDropoutSettings(score=one["score"])).fit(NETWORK, IMAGES)
        scores = (alone.score(NETWORK, IMAGES[split]) for split in ("validation", "tuning"))
        assert one["auroc"] == ood_metrics(*scores)["auroc"]


def test_refuses():
    with pytest.raises(InputError, match="bins must be even, found 51"):
        NACSettings(bins=51)
    with pytest.raises(InputError, match="draws must be at least 2"):
        MCDropoutSettings(draws=1)
    with pytest.raises(InputError, match="decay must be at least 0 and at most 1"):
        KNNLayersSettings(decay=2.0)
