"""Fitted detectors packed and unpacked, and what calibrates them."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.deploy.calibrated import KINDS, calibrate, make_detector
from sslood.deploy.inputs import Inputs
from sslood.deploy.packed import pack, unpack
from sslood.ood.kit.combining import evidence
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import Network
from sslood.ood.kit.outputs import Outputs, Prior, part_of
from sslood.ood.measures.conformal import conformal_threshold
from tests.kit.registries import DETECTORS, NETWORK, STOCHASTIC
from tests.ood.posthoc.test_head_detectors import TEST, TRAIN, VALIDATION

SETTINGS = {"knn": {"k": 5}, "odin": {"epsilon": 0.01}} | {
    name: {"k": 5} for name in STOCHASTIC if name.endswith("_knn")
}


class Toy:
    """What is asked of a network, of images [N, 1, 4, 4]."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(16, 4, generator=generator)

    def logits(self, x):
        return x.flatten(1) @ self.weight

    def maps(self, x, read):
        return [read(x), read(2 * x[:, :, ::2])], self.logits(x)

    def stages(self, x, changes):
        first = changes.get(-2, torch.nn.Identity())(x.reshape(-1, 4, 2, 2))
        last = changes.get(-1, torch.nn.Identity())(first.tanh())
        return [first, last], last.flatten(1) @ self.weight


TOY = Toy()
PARTS_OF_ALL = ("features", "logits", "labels", "classes", "head", "concepts")
ASKED = Network([0.5], [0.5], TOY.logits, TOY.maps, TOY.logits, TOY.stages, torch.nn.Identity())


def inputs(outputs, scale=255):
    """Return `outputs` with the Gaussian of a stochastic model, as many images, and the toy network."""
    random = np.random.default_rng(len(outputs))
    mu, log_variance = random.normal(size=(2, len(outputs), 3)).astype(np.float32)
    parts = {part: getattr(outputs, part) for part in PARTS_OF_ALL}
    prior = Prior(np.zeros(1), np.zeros((1, 3)), np.zeros((1, 3)))
    images = random.integers(0, scale, (len(outputs), 1, 4, 4), np.uint8)
    outputs = Outputs("x", **parts, mu=mu, log_variance=log_variance, prior=prior)
    return Inputs(outputs, images, ASKED, f"digits.{len(outputs)}")


ALL = {"train": inputs(TRAIN), "heldout": inputs(VALIDATION), "test": inputs(TEST)}


def numbers(name):
    """Return settings of a detector in which nothing is auto."""
    first = {key: values[0] for key, values in KINDS[name].space.items()}
    return KINDS[name].Settings(**first | SETTINGS.get(name, {}))


def calibrated(*names, alpha=0.1, combination=None, **more):
    detectors = {name: make_detector(name, numbers(name), seed=0, device="cpu") for name in names}
    return calibrate(detectors, ALL["train"], ALL["heldout"], alpha=alpha, combination=combination, **more)


def test_every_detector_of_every_stage_has_a_name_of_its_own():
    assert len(KINDS) == len(DETECTORS) + len(STOCHASTIC) + len(NETWORK) + 1


@pytest.mark.parametrize(
    "names, combination",
    [((name,), None) for name in KINDS] + [(("gmm", "odin", "kl_prior", "gram"), "fisher")],
)
def test_a_file_gives_the_same_decisions(names, combination, tmp_path):
    before = calibrated(*names, combination=combination)
    arrays, content = pack(before)
    save_tensors(tmp_path / "d.safetensors", arrays, kind="detector", metadata=content)
    after = unpack(*load_tensors(tmp_path / "d.safetensors", kind="detector"), "d.safetensors")
    scores = after.score(ALL["test"])
    np.testing.assert_array_equal(scores, before.score(ALL["test"]))
    assert np.std(scores) > 0
    assert after.threshold == before.threshold and after.name == before.name
    np.testing.assert_array_equal(after.p_values(scores) <= 0.1, after.is_ood(scores))
    assert before.is_ood(before.calibration).mean() <= 0.1


@pytest.mark.parametrize("name, held_out", [("knn", VALIDATION), ("kl_matching", None)])
def test_the_threshold_comes_from_images_that_were_not_fitted_on(name, held_out):
    found = calibrated(name)
    if held_out is None:
        held_out = part_of(VALIDATION, slice(1, None, 2))
        fitted = KINDS[name]().fit(TRAIN, part_of(VALIDATION, slice(0, None, 2)))
        np.testing.assert_array_equal(fitted.score(TEST), found.detector.score(TEST))
    assert found.threshold == conformal_threshold(found.detector.score(held_out), 0.1)


def test_what_reads_the_network_and_validation_calibrates_on_the_other_half():
    found, images = calibrated("gram"), ALL["heldout"].images
    parts = {"train": ALL["train"].images, "validation": images[::2]}
    fitted = KINDS["gram"](found.detector.settings).fit(ASKED, parts)
    assert found.threshold == conformal_threshold(fitted.score(ASKED, images[1::2]), 0.1)
    assert found.threshold.images == len(images) // 2 and calibrated("rotation").threshold.images == 300
    assert found.origins["gram"].fitted_on == ("digits.600 (600) and images 1, 3, 5, … of digits.300 (150)")
    assert found.calibrated_on == "images 2, 4, 6, … of digits.300"


def test_a_given_epsilon_leaves_odin_all_of_validation():
    found = calibrated("odin")
    assert found.threshold.images == 300 and found.origins["odin"].fitted_on == "no images"


@pytest.mark.parametrize("name", ["kl_matching", "temperature_scaling", "gram", "knn"])
def test_calibration_images_apart_from_validation_leave_all_of_both(name):
    """A model that was trained on validation: the detector is that of the stage, and ID test calibrates."""
    found = calibrated(name, validation=ALL["test"])
    fitted = make_detector(name, numbers(name), seed=0, device="cpu")
    if name == "gram":
        fitted.fit(ASKED, {"train": ALL["train"].images, "validation": ALL["test"].images})
    else:
        fitted.fit(TRAIN, TEST)
    expected = ALL["heldout"].score(fitted)
    np.testing.assert_array_equal(found.calibration, np.sort(expected))
    assert found.threshold.images == 300 and found.calibrated_on == "digits.300"


def test_it_says_its_settings_where_they_come_from_and_what_it_was_fitted_on():
    found = calibrated("knn", "kl_matching", combination="simes", sources={"knn": {"k": "stage posthoc"}})
    assert found.describe() == [
        "knn: k = 5 (stage posthoc); fitted on digits.600 (600).",
        "kl_matching: no settings; fitted on images 1, 3, 5, … of digits.300 (150).",
    ]


@pytest.mark.parametrize(
    "alpha, count, says",
    [
        (0.0125, 150, r"at most 0.0125 of ID will be called OOD on average \(0.000 to 0.024, from 150 "),
        (0.0001, 20_000, r"at most 0.0001 of ID will be called OOD on average \(1.2e-05 to 0.00028, from 2"),
    ],
)
def test_it_promises_what_holds(alpha, count, says):
    """(n + 1) alpha need not be whole: of 150 images the threshold for 0.0125 is that for 1 / 151."""
    limit = conformal_threshold(np.arange(count), alpha)
    assert re.search(says, replace(calibrated("knn"), threshold=limit).promise())


@pytest.mark.parametrize("method", ["fisher", "simes", "cauchy"])
def test_a_combination_is_that_of_ranks_in_one_half_and_calibrated_on_the_other(method):
    names = ("knn", "energy", "rotation")
    found = calibrated(*names, combination=method)
    assert found.name == f"knn + energy + rotation by {method}"
    first, second = ALL["heldout"].halves()
    alone = {name: calibrated(name).detector for name in names}
    ranks = []
    for name, detector in alone.items():
        own, scores = first.score(detector), second.score(detector)
        np.testing.assert_array_equal(found.references[name], np.sort(own))
        ranks.append([(0.5 + (own >= score).sum()) / (len(own) + 1) for score in scores])
    inside = (np.array(ranks) > 0.5 / 151).all(0)  # the others lie beyond all references
    expected = evidence(torch.tensor(np.array(ranks)), method).numpy()
    np.testing.assert_allclose(found.score(second)[inside], expected[inside], rtol=1e-12)
    assert found.threshold == conformal_threshold(found.score(second), 0.1)


class Column(Detector):
    """The feature in one place, as it is."""

    reads = ("features",)

    def __init__(self, place):
        super().__init__()
        self.place = place

    def _score(self, parts, state):
        return parts["features"][:, self.place]


@pytest.mark.parametrize("method", ["sum", "fisher", "simes", "cauchy"])
def test_a_combination_of_dependent_detectors_keeps_the_rate(method):
    """Fisher's own p-values would not: two equal detectors count as two witnesses."""
    random, alarms = np.random.default_rng(2), []
    detectors = {str(place): Column(place) for place in range(3)}
    train = Inputs(Outputs("x", random.normal(size=(1, 3))))
    for _ in range(400):
        rows = random.normal(size=(58 + 50, 1)) + [0.0, 0.1, 0.5] * random.normal(size=(58 + 50, 3))
        heldout, new = (Inputs(Outputs("x", part)) for part in (rows[:58], rows[58:]))
        rule = calibrate(detectors, train, heldout, alpha=0.1, combination=method)
        alarms.append(rule.is_ood(rule.score(new)).mean())
    error = 4 * np.std(alarms) / 20
    assert 0.1 - 1 / 30 - error < np.mean(alarms) <= 0.1 + error


def test_a_combination_finds_what_each_detector_alone_would_miss():
    random = np.random.default_rng(3)
    rows = random.normal(size=(400, 2))
    far = np.concatenate([random.normal(size=(50, 2)) + shift for shift in ([5, 0], [0, 5])])
    train, heldout, new = (Inputs(Outputs("x", part)) for part in (rows[:2], rows, far))
    one = calibrate({"0": Column(0)}, train, heldout, alpha=0.05)
    assert one.is_ood(one.score(new)).mean() < 0.6
    for method in ("sum", "fisher", "simes", "cauchy"):
        both = calibrate({"0": Column(0), "1": Column(1)}, train, heldout, alpha=0.05, combination=method)
        assert both.is_ood(both.score(new)).mean() > 0.9
        steps = np.column_stack([np.linspace(4, 100, 50), np.zeros(50)])
        assert (np.diff(both.score(Inputs(Outputs("x", steps)))) > 0).all(), "beyond all references too"


def test_refuses():
    with pytest.raises(InputError, match="needs at least 999 calibration images, there are 300"):
        calibrated("knn", alpha=0.001)
    with pytest.raises(InputError, match="at least 199 calibration images, there are 150, half of 300"):
        calibrated("knn", "msp", alpha=0.005, combination="simes")
    with pytest.raises(InputError, match="unknown detector 'odinn'"):
        make_detector("odinn", None, seed=0, device="cpu")
    with pytest.raises(InputError, match="x.safetensors: holds no detector"):
        unpack({}, {}, "x.safetensors")
    arrays, content = pack(calibrated("knn"))
    content["detectors"][0]["settings"]["kk"] = 3
    with pytest.raises(InputError, match="x.safetensors: unknown key 'kk'"):
        unpack(arrays, content, "x.safetensors")
    with pytest.raises(InputError, match="x.safetensors: written by another version .* write it again"):
        unpack(arrays, {**content, "version": 1}, "x.safetensors")
