"""Fitting in batches and in shards gives what fitting at once gives."""

import numpy as np
import pytest

from sslood.core.errors import InputError, LeftOut
from sslood.ood.geometry.covariance import Moments
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.fitting import Streaming
from sslood.ood.kit.outputs import Outputs, chunked, part_of
from sslood.ood.kit.search import Tuning, best_settings
from sslood.ood.posthoc.react import ReAct, ReActSettings
from sslood.ood.ssd.ssd import SSD, SSDSettings
from tests.kit.registries import DETECTORS, example
from tests.ood.posthoc.test_head_detectors import CLASSES, TEST, TRAIN, VALIDATION

STREAMING = [name for name, kind in DETECTORS.items() if issubclass(kind, Streaming)]
SORTED = np.argsort(TRAIN.labels, kind="stable")


def source(name):
    return VALIDATION if DETECTORS[name].on_validation else TRAIN


def in_batches(detector, outputs, sizes):
    start = 0
    for size in sizes:
        detector.partial_fit(part_of(outputs, slice(start, start + size)))
        start += size
    assert start == len(outputs)
    return detector


def rows(outputs, order):
    parts = {part: getattr(outputs, part)[order] for part in ("features", "logits", "labels")}
    return Outputs(outputs.name, classes=outputs.classes, head=outputs.head, **parts)


def test_all_that_learn_are_here():
    learning = [name for name, kind in DETECTORS.items() if kind._fit is not Detector._fit]
    assert set(STREAMING) == set(learning) - {"ash", "scale", "lts", "mcm", "neglabel"}  # from no image


@pytest.mark.parametrize("name", STREAMING)
def test_batches_and_shards_equal_the_whole(name):
    whole = example(name).fit(TRAIN, VALIDATION).score(TEST)
    outputs = source(name)
    count = len(outputs)
    streamed = in_batches(example(name), outputs, [1, 7, 100, count - 108])
    np.testing.assert_allclose(streamed.finish().score(TEST), whole, rtol=1e-9, atol=1e-9)
    # shards by class: most classes are missing in each
    order = np.argsort(outputs.labels, kind="stable")
    parts = list(chunked(rows(outputs, order), count // 4))
    merged = example(name)
    for part in reversed(parts):
        merged.merge(in_batches(example(name), part, [len(part)]))
    np.testing.assert_allclose(merged.finish().score(TEST), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", STREAMING)
def test_more_may_follow_and_shards_stay_as_they_are(name):
    outputs = source(name)
    first, second = chunked(outputs, len(outputs) // 2)
    one, other = (in_batches(example(name), part, [len(part)]) for part in (first, second))
    alone = other.finish().score(TEST)
    one.finish().merge(other)
    np.testing.assert_array_equal(other.finish().score(TEST), alone)
    whole = example(name).fit(TRAIN, VALIDATION)
    np.testing.assert_allclose(one.finish().score(TEST), whole.score(TEST), rtol=1e-9, atol=1e-9)
    assert one.last.features is None and one.last.logits is None, "a batch is kept"


@pytest.mark.parametrize("name", STREAMING)
def test_a_buffer_may_be_filled_again(name):
    outputs = source(name)
    whole = example(name).fit(TRAIN, VALIDATION).score(TEST)
    buffer = rows(outputs, np.arange(100))
    detector = example(name)
    for start in range(0, len(outputs), 100):
        for part in ("features", "logits", "labels"):
            getattr(buffer, part)[:] = getattr(outputs, part)[start : start + 100]
        detector.partial_fit(buffer)
    np.testing.assert_allclose(detector.finish().score(TEST), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.1234, 0.9999])
def test_react_clips_at_the_quantile_of_all_activations(share):
    values = np.concatenate([TRAIN.features - 0.7, -TRAIN.features, np.zeros_like(TRAIN.features)])
    outputs = Outputs("made", features=values, head=TRAIN.head)
    limit = ReAct(ReActSettings(quantile=share)).fit(outputs).state["limit"]
    np.testing.assert_allclose(limit, np.quantile(values.astype(np.float64), share), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("classes", [False, True])
def test_ssd_in_shards_equals_ssd_at_once(tied, classes):
    """Two ways to one result: standardised rows there, transformed moments here."""
    outputs = rows(TRAIN, SORTED)
    outputs.features[:, 5] = 0.0  # a constant dimension
    settings = SSDSettings(tied=tied, class_conditional=classes, ridge=1e-3)
    whole = SSD(settings).fit(outputs)
    shards = [SSD(settings).partial_fit(shard) for shard in chunked(outputs, 70)]
    merged = SSD(settings)
    for shard in shards:
        merged.merge(shard)
    np.testing.assert_allclose(merged.finish().score(TEST), whole.score(TEST), rtol=1e-9)
    assert merged.state.keys() == whole.state.keys()
    assert {key: a.shape for key, a in merged.state.items()} == {
        key: a.shape for key, a in whole.state.items()
    }


def test_features_far_from_zero_lose_no_digits():
    """Sums of squares would: 10^8 squared leaves no digit for a spread of 1."""
    random = np.random.default_rng(0)
    values = 1e8 + random.normal(size=(5000, 3))
    moments = [Moments.empty(1, 3) for _ in range(2)]
    for number, piece in enumerate(np.array_split(values, 40)):
        moments[number % 2].update(piece)
    found = moments[0].merged(moments[1])
    np.testing.assert_allclose(found.covariance, np.cov(values.T, bias=True), rtol=1e-6, atol=1e-8)


def test_pooled_moments_are_those_without_groups():
    grouped, plain = Moments.empty(7, 24), Moments.empty(1, 24)
    grouped.update(TRAIN.features, TRAIN.labels)  # class 6 is empty
    plain.update(TRAIN.features)
    found = grouped.pooled()
    np.testing.assert_array_equal(found.counts, plain.counts)
    np.testing.assert_allclose(found.means, plain.means, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, plain.covariance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in STREAMING if example(name).needs])
def test_what_a_fit_needs_shards_need_together(name):
    """The same words for the first images, whether they came at once, in batches or in shards."""

    def refusal(fit):
        try:
            fit()
        except LeftOut as error:
            return error.reason
        return None

    outputs, reasons = source(name), []
    for count in (1, 2, 4, 7, 20):
        some = part_of(outputs, slice(count))
        shards = [example(name).partial_fit(part) for part in chunked(some, 3)]
        merged = example(name).merge(shards[0])
        for shard in shards[1:]:
            merged.merge(shard)
        reasons.append(refusal(lambda some=some: example(name).fit(some, some)))
        assert refusal(merged.finish) == reasons[-1]
    assert any(reasons) or not any(need.images or need.per_class for need in example(name).needs)
    none = Outputs("a", features=TRAIN.features, logits=TRAIN.logits, classes=CLASSES, head=TRAIN.head)
    if any(need.classes for need in example(name).needs):
        with pytest.raises(InputError, match="label"):
            example(name).partial_fit(none).finish()


def test_refusals():
    part = Outputs("a", features=TRAIN.features, labels=TRAIN.labels)

    def kind():
        return example("mahalanobis")

    with pytest.raises(InputError, match="a: fitting in batches needs the number of classes"):
        kind().partial_fit(part)
    with pytest.raises(InputError, match="has seen no images yet"):
        kind().merge(kind()).finish()
    with pytest.raises(InputError, match="one kind and settings"):
        kind().merge(example("mahalanobis", ridge=1e-3))
    with pytest.raises(InputError, match="no image of class 5"):
        kind().partial_fit(part_of(rows(TRAIN, SORTED), slice(0, 500))).finish()
    narrow = Outputs("b", features=TRAIN.features[:, :9], labels=TRAIN.labels, classes=TRAIN.classes)
    with pytest.raises(InputError, match=r"b: 6 classes and widths \{'features': 9\}, but .*24"):
        kind().partial_fit(TRAIN).partial_fit(narrow)
    for settings in (SSDSettings(clusters=3), SSDSettings(covariance="ledoit_wolf")):
        with pytest.raises(InputError, match="fit it to all images at once"):
            SSD(settings).partial_fit(TRAIN)
    with pytest.raises(InputError, match="c: label 5, but 4 classes"):
        kind().partial_fit(Outputs("c", features=TRAIN.features, labels=TRAIN.labels, classes=4))


@pytest.mark.parametrize("name", [name for name in STREAMING if DETECTORS[name].space])
def test_candidates_that_share_sums_are_those_fitted_alone(name, monkeypatch):
    tuning = Tuning(TRAIN, VALIDATION, {"made": TEST}, "made")
    kind = DETECTORS[name]
    settings = kind.Settings(**dict.fromkeys(kind.space, "auto"))
    shared = best_settings(kind, settings, tuning, seed=0, device="cpu")
    assert shared.detector.gathered is None, "or the sums of all candidates stay in memory"
    fit = kind._fit

    def alone(self, source):
        self.gathered = None
        return fit(self, source)

    monkeypatch.setattr(kind, "_fit", alone)
    found = best_settings(kind, settings, tuning, seed=0, device="cpu")
    assert found.candidates == shared.candidates and found.detector.settings == shared.detector.settings
    np.testing.assert_array_equal(found.detector.score(TEST), shared.held.outside["made"])
