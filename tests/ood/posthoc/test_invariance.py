"""What must not change a score, and what no input may do: every detector of a model's outputs at once.

Each test goes through all and compares those that differ, or refuse, with those that may. That batches,
streams and shards agree is tested in `tests/ood/kit/test_fitting.py`, graphs in `tests/deploy`.
"""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sslood.core.errors import InputError, LeftOut
from sslood.core.files import load_tensors, save_tensors
from sslood.ood.kit.fitting import Streaming
from sslood.ood.kit.outputs import PARTS, Concepts, Head, Outputs, Prior, part_of
from tests.kit.registries import LEARNING, STOCHASTIC, example
from tests.ood.posthoc import test_head_detectors as small

WIDTH, CLASSES, HEAD = small.WIDTH, small.CLASSES, Head(small.WEIGHT, small.BIAS)
PRIOR = Prior(np.log([0.4, 0.6]), *np.random.default_rng(0).normal(size=(2, 2, 6)))
WORDS = np.random.default_rng(8).normal(size=(40, WIDTH))
NEIGHBOURS = {name for name in LEARNING if "knn" in name}
NO_SPREAD = dict.fromkeys(("gmm", "mahalanobis", "neco", "rmds", "ssd"), "all .*rows.* are equal, so there")
NO_CLASS = dict.fromkeys(
    ("gmm", "mahalanobis", "membership", "openmax", "she", "weighted_energy"), "no image of class"
)
NO_RESIDUAL = {"vim": "the features have no residual; lower vim.share"}
NO_LOGIT = {"vim": r"the largest logits are \S+ on average; unless that is above 0"}
ONE_LABEL = {"rmds": "RMDS needs 2 labelled classes in train, there is 1"}


def model(features, labels, head=HEAD):
    """The outputs of one model, all parts made from its features."""
    features, classes = np.asarray(features, np.float32), len(head.bias)
    logits = head.logits(features).astype(np.float32)
    words = Concepts(small.OWN[:, : features.shape[1]], WORDS[:, : features.shape[1]])
    gaussian = {"mu": features[:, :6], "log_variance": np.tanh(features[:, -6:])}
    parts = {"logits": logits, "labels": labels, **gaussian}
    return Outputs("made", features, classes=classes, head=head, prior=PRIOR, concepts=words, **parts)


SOURCES = (small.TRAIN, small.VALIDATION, part_of(small.TEST, slice(60)))
SPLITS = TRAIN, VALIDATION, TEST = tuple(model(one.features, one.labels) for one in SOURCES)


def scores(splits=SPLITS, **settings):
    """Scores of every detector, or the message of its LeftOut."""
    train, validation, test = splits
    found = {}
    for name in LEARNING:
        try:
            found[name] = example(name, **settings.get(name, {})).fit(train, validation).score(test)
        except LeftOut as reason:
            found[name] = str(reason)
    return found


@cache
def reference():
    return scores()


def on_arrays(outputs, change):
    parts = {part: getattr(outputs, part) for part in (*PARTS, "labels")}
    return replace(outputs, **{part: change(array) for part, array in parts.items() if array is not None})


def differing(found, expected, rtol=1e-9):
    """The names of detectors whose scores are not those expected, up to rounding."""
    return {
        name
        for name, values in expected.items()
        if isinstance(found[name], str)
        or not np.allclose(found[name], values, rtol=rtol, atol=rtol * np.abs(values).max())
    }


def test_the_order_of_images_does_not_matter():
    random = np.random.default_rng(0)
    orders = [random.permutation(len(one)) for one in SPLITS]
    pairs = zip(SPLITS, orders, strict=True)
    splits = [on_arrays(one, lambda array, order=order: array[order]) for one, order in pairs]
    expected = {name: values[orders[2]] for name, values in reference().items()}
    assert differing(scores(splits), expected) == set()


def test_the_order_of_classes_and_of_features_does_not_matter():
    random = np.random.default_rng(1)
    classes, columns = random.permutation(CLASSES), random.permutation(WIDTH)
    place, head = np.argsort(classes), Head(HEAD.weight[classes], HEAD.bias[classes])
    splits = [model(one.features, place[one.labels], head) for one in SPLITS]
    assert differing(scores(splits), reference()) == {"weiper"}  # whose noise is drawn for each weight
    head = Head(HEAD.weight[:, columns], HEAD.bias)
    words = Concepts(small.OWN[:, columns], WORDS[:, columns])
    splits = [replace(one, features=one.features[:, columns], head=head, concepts=words) for one in SPLITS]
    assert differing(scores(splits), reference()) == {"weiper"}


def test_an_image_twice_among_those_scored_has_one_score():
    twice = on_arrays(TEST, lambda array: np.repeat(array, 2, axis=0))
    found = scores((TRAIN, VALIDATION, twice))
    assert not [name for name, values in found.items() if (values[::2] != values[1::2]).any()]


def test_every_training_image_twice_changes_only_what_counts_images():
    twice = [on_arrays(one, lambda array: np.concatenate([array, array])) for one in SPLITS[:2]]
    found = differing(scores((*twice, TEST)), reference())
    assert found == NEIGHBOURS | {"nnguide", "openmax", "pnml"}
    ranks = {name: {"k": 100} for name in NEIGHBOURS} | {"nnguide": {"k": 20}}
    found = differing(scores((*twice, TEST), **ranks), reference())
    assert found == {"openmax", "pnml"}  # its tail is a number of images, and its directions are seen twice


def cast(outputs, kind):
    def change(array):
        return array if array.dtype.kind == "i" else array.astype(kind)

    head = Head(*map(change, (outputs.head.weight, outputs.head.bias)))
    return replace(on_arrays(outputs, change), head=head)


def test_half_precision_is_the_same_numbers():
    half = [cast(one, np.float16) for one in SPLITS]
    assert differing(scores(half), scores([cast(one, np.float32) for one in half]), rtol=1e-12) == set()


@pytest.mark.parametrize("stored", ["backwards", "by columns", "read-only", "float64"])
def test_how_arrays_are_stored_does_not_matter(stored):
    def again(array):
        if stored == "backwards":
            return array[::-1].copy()[::-1]
        copy = array.copy(order="F" if stored == "by columns" else "C")
        copy.flags.writeable = stored != "read-only"
        return copy.astype(np.float64) if stored == "float64" and array.dtype.kind == "f" else copy

    assert differing(scores([on_arrays(one, again) for one in SPLITS]), reference()) == set()
    one = on_arrays(TEST, lambda array: array[::-1][:1])
    last = {name: values[-1:] for name, values in reference().items()}
    assert differing(scores((TRAIN, VALIDATION, one)), last) == set()


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_the_unit_of_the_features_does_not_matter_where_none_is_meant(scale):
    """Of the others, all scores are finite: their exponentials and log-probabilities have a unit."""
    head = Head(HEAD.weight, (HEAD.bias * scale).astype(np.float32))
    found = scores([model(one.features * scale, one.labels, head) for one in SPLITS])
    assert all(np.isfinite(values).all() for values in found.values())
    free = "euclidean_knn fdbd gmm knn mahalanobis max_logit neco residual rmds she ssd".split()
    assert not [name for name in free if spearmanr(found[name], reference()[name])[0] < 0.99999]


def test_the_length_of_an_image_s_features_does_not_matter_to_what_reads_directions():
    lengths = np.random.default_rng(2).uniform(0.01, 100, len(TEST))[:, None]
    names = ("mahalanobis", "gmm", "residual", "rmds", "knn", "ssd", "pnml")
    wide = TEST.features.astype(float)
    longer, expected = (
        scores((TRAIN, VALIDATION, replace(TEST, features=features)), rmds={"beta": 1.0})
        for features in (wide * lengths, wide)
    )
    assert not differing(longer, {name: expected[name] for name in names})


def test_a_constant_added_to_all_logits_does_not_change_probabilities():
    moved = [replace(one, logits=one.logits.astype(float) + 50.0) for one in SPLITS]
    names = ("msp", "entropy", "gen", "temperature_scaling", "kl_matching", "gradnorm", "relation")
    assert not differing(scores(moved), {name: reference()[name] for name in names}, rtol=1e-6)


def changed(change, which=(0, 1, 2), head=HEAD):
    splits = list(SPLITS)
    for i in which:
        splits[i] = model(change(splits[i].features), splits[i].labels, head)
    return splits


def constant(features):
    return np.full_like(features, 0.3)  # sums of it are rounded


def one_constant(features):
    return np.where(np.arange(WIDTH) == 5, 0.25, features)


def dead(features):
    """As most units of a network after a ReLU may be."""
    return np.where(np.arange(WIDTH) < 4, features, 0.0)


def rank_three(features):
    return features[:, :3] @ np.random.default_rng(3).uniform(size=(3, WIDTH))


def one_huge(features):
    return np.where(np.arange(len(features))[:, None] == 3, 1e30, features)


def first(count):
    return [part_of(one, slice(count)) for one in SPLITS[:2]] + [TEST]


def one_class(head):
    return [model(one.features, np.zeros(len(one), np.int64), head) for one in SPLITS]


TWO = "needs a classifier of at least 2 classes, this one has 1"
ONE_CLASS = dict.fromkeys(
    ("entropy", "fdbd", "gen", "gradnorm", "kl_matching", "msp", "pnml", "temperature_scaling"), TWO
)
FEW = {name: "needs 50 train images, there are 12" for name in NEIGHBOURS}
# name -> (splits, detectors that refuse with these words); the scores of all others are finite
CASES = {
    "features that are equal": (changed(constant), NO_SPREAD | NO_RESIDUAL),
    "features that are equal on ID alone": (changed(constant, (0, 1)), NO_SPREAD | NO_RESIDUAL),
    "features of zeros": (changed(np.zeros_like), NO_SPREAD | NO_RESIDUAL | {"pnml": "features are zero"}),
    "an OOD set of zeros": (changed(np.zeros_like, (2,)), {}),
    "a feature that is constant": (changed(one_constant), {}),
    "a feature that is constant on ID alone": (changed(one_constant, (0, 1)), {}),
    "features of which most are dead": (changed(dead), NO_RESIDUAL),
    "features of rank three": (changed(rank_three), NO_RESIDUAL),
    "features of rank three on ID alone": (changed(rank_three, (0, 1)), NO_RESIDUAL),
    "one huge training image": (changed(one_huge, (0,)), {}),
    "one huge test image": (changed(one_huge, (2,)), {}),
    "negative features": (changed(np.negative), NO_LOGIT),
    "a classifier of zeros": (changed(np.copy, head=Head(0 * HEAD.weight, 0 * HEAD.bias)), NO_LOGIT),
    "a huge classifier": (changed(np.copy, head=Head(HEAD.weight * np.float32(1e30), HEAD.bias)), {}),
    "fewer images than dimensions": (first(12), FEW | NO_RESIDUAL),
    "no training image": (first(0), dict.fromkeys(LEARNING, "needs 1 (train|validation) image, there are 0")),
    "no test image": ([TRAIN, VALIDATION, part_of(TEST, slice(0))], {}),
    "one class": (
        one_class(Head(HEAD.weight[:1], HEAD.bias[:1])),
        ONE_LABEL | ONE_CLASS,
    ),
    "labels of one class": (one_class(HEAD), NO_CLASS | ONE_LABEL),
    "more classes than features": (
        changed(lambda features: features[:, :6], head=Head(HEAD.weight[:, :6], HEAD.bias)),
        {"membership": "span all 6 dimensions of the features"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_finite_or_the_reason_is_clear(case):
    splits, refusals = CASES[case]
    found = scores(splits)
    refused = {name: values for name, values in found.items() if isinstance(values, str)}
    assert refused.keys() == refusals.keys()
    for name, message in refused.items():
        assert message.startswith("made") and "\n" not in message
        assert re.search(refusals[name], message), message
    assert not [name for name in found.keys() - refused.keys() if not np.isfinite(found[name]).all()]


@pytest.mark.parametrize("case", [case for case in CASES if "no t" not in case])
def test_rounding_decides_nothing(case):
    """Another order of images is rounded as another processor may round."""
    train, validation, test = CASES[case][0]
    orders = [np.random.default_rng(4).permutation(len(one)) for one in (train, validation)]
    pairs = zip((train, validation), orders, strict=True)
    again = [on_arrays(one, lambda array, order=order: array[order]) for one, order in pairs]
    found, other = scores((train, validation, test)), scores((*again, test))
    refused = {name for name, values in found.items() if isinstance(values, str)}
    assert refused == {name for name, values in other.items() if isinstance(values, str)}
    expected = {name: values for name, values in found.items() if name not in refused}
    # distances about a mean of 1e28 have no digit left of features near 1
    lost = {"euclidean_knn", "reverse_kl_knn"} if case == "one huge training image" else set()
    assert differing(other, expected, rtol=1e-5) <= lost


def test_dead_features_leave_no_residual_but_rounding():
    """Scores made of rounding errors would differ between processors."""
    found = example("residual").fit(*changed(dead)[:2]).score(changed(dead)[2])
    assert (found == 0).all() and (scores(changed(dead, (0, 1)))["residual"] > 0.01).all()


@pytest.mark.parametrize("name", LEARNING)
def test_what_is_saved_and_what_is_traced_give_the_same_scores(name, tmp_path):
    fitted = example(name).fit(TRAIN, VALIDATION)
    path, widths = tmp_path / "d.safetensors", {"widths": fitted.widths}
    save_tensors(path, fitted.state, kind="detector", metadata=widths)
    state, metadata = load_tensors(path, kind="detector")
    again = type(fitted)(fitted.settings).restore(state, metadata["widths"])
    np.testing.assert_array_equal(again.score(TEST), reference()[name])
    parts = {part: torch.from_numpy(TEST.need(part)).double() for part in fitted.reads}
    np.testing.assert_allclose(again.scorer()(parts).numpy(), reference()[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, kind in LEARNING.items() if issubclass(kind, Streaming)])
def test_a_shard_without_images_adds_nothing(name):
    source = VALIDATION if LEARNING[name].on_validation else TRAIN
    none = part_of(source, slice(0))
    streamed = example(name).partial_fit(none).partial_fit(source).merge(example(name).partial_fit(none))
    assert not differing({name: streamed.finish().score(TEST)}, {name: reference()[name]})
    with pytest.raises(InputError, match="has seen no images yet"):
        example(name).partial_fit(none).finish()


def test_a_head_that_cannot_be_the_model_s_is_named():
    bad = Head(np.where(np.arange(CLASSES)[:, None] == 2, np.nan, HEAD.weight), HEAD.bias)
    with pytest.raises(InputError, match="made: the classifier's weights of 1 of 6 classes are NaN"):
        replace(TEST, head=bad)
    for head, words in [
        (Head(HEAD.weight[:, :9], HEAD.bias), "weights for 9 features, but there are 24"),
        (Head(HEAD.weight[:4], HEAD.bias[:4]), "weights for 4 logits, but there are 6"),
    ]:
        with pytest.raises(InputError, match=words):
            replace(TEST, head=head)
    narrow = replace(VALIDATION, head=None, logits=VALIDATION.logits[:, :4])
    with pytest.raises(InputError, match="made: an image has label 5, but the classifier has 4 classes"):
        example("temperature_scaling").fit(TRAIN, narrow)


def test_every_part_of_the_registry_is_gone_through():
    assert set(LEARNING) >= set(STOCHASTIC) | {"ssd", "mahalanobis"} and len(reference()) == len(LEARNING)
    assert not [name for name, found in reference().items() if isinstance(found, str) or not np.ptp(found)]
