"""Detectors from normal vectors: the rate that is promised, what is chosen, and a few known bad examples."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from sslood.core.errors import InputError
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.inputs import Inputs
from sslood.deploy.normal.examples import Examples, linear_head
from sslood.deploy.normal.fit_normal import Distorted, described, fit_normal
from sslood.deploy.normal.known_bad import KnownBad
from sslood.deploy.normal.split import split_normal
from sslood.deploy.packed import pack, unpack
from sslood.ood.kit.outputs import Outputs
from sslood.ood.measures.conformal import conformal_threshold

WIDTH = 12
RANDOM = np.random.default_rng(0)
CENTRES = 4 * RANDOM.normal(size=(4, WIDTH))
CLASSES = ("ant", "bee", "cat")


def drawn(count, of, seed=1):
    """Return vectors around the centres `of`, and which one each is of."""
    random = np.random.default_rng(seed)
    labels = random.integers(len(of), size=count)
    rows = CENTRES[np.array(of)[labels]] + random.normal(size=(count, WIDTH))
    return rows.astype(np.float32), labels


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def score(fitted, rows, classes=()):
    return fitted.calibrated.score(Inputs(Examples(rows, classes=classes).outputs(fitted.head)))


NORMAL, LABELS = drawn(240, (0, 1, 2))
ODD = drawn(200, (3,), seed=2)[0]


def test_without_labels_it_is_the_distance_to_neighbours_among_those_that_teach():
    fitted = fit_normal(NORMAL, alpha=0.1)
    assert fitted.calibrated.name == "knn" and fitted.head is None
    bank, held = NORMAL[fitted.split.fit], NORMAL[fitted.split.calibration]
    expected = np.sort(cdist(unit(held), unit(bank)), axis=1)[:, 4]  # k = 5
    np.testing.assert_allclose(fitted.calibrated.calibration, np.sort(expected), atol=1e-6)
    assert fitted.calibrated.threshold == conformal_threshold(fitted.calibrated.calibration, 0.1)
    assert fitted.calibrated.is_ood(score(fitted, ODD)).mean() > 0.9
    assert "what it catches was not measured" in fitted.calibrated.warnings()[0]


def test_the_rate_holds_for_new_examples_over_repetitions():
    """Marginally over calibration sets and examples, with known bad ones and with classes too."""
    alarms = total = 0
    for seed in range(16):
        rows, labels = drawn(420, (0, 1, 2), seed=100 + seed)
        given = {"labels": labels[:120], "classes": CLASSES} if seed % 2 else {}
        fitted = fit_normal(rows[:120], alpha=0.1, seed=seed, detector="knn", bad={"odd": ODD[:3]}, **given)
        alarms += int(fitted.calibrated.is_ood(score(fitted, rows[120:], CLASSES if given else ())).sum())
        total += 300
    # examples of one repetition share a threshold: its spread is that of a Beta with 60 examples
    spread = np.sqrt(0.1 * 0.9 * (1 / total + 1 / (16 * 62)))
    assert abs(alarms / total - 6 / 61) < 3 * spread
    assert binomtest(alarms, total, 0.2).pvalue < 1e-9  # it is not any rate


def test_classes_give_a_head_and_what_was_left_out_decides():
    fitted = fit_normal(NORMAL, LABELS, CLASSES, alpha=0.1, with_head=True)
    assert fitted.accuracy == 1.0
    teach = fitted.split.fit
    rows, mean, spread = NORMAL[teach], NORMAL[teach].mean(0), NORMAL[teach].std(0)
    # scikit-learn's objective is the sum of losses + |W|^2 / 2C, ours the mean + l2 / 2 |W|^2
    peer = LogisticRegression(C=1 / (0.01 * len(teach)), tol=1e-10, max_iter=10_000)
    peer.fit((rows - mean) / spread, LABELS[teach])
    np.testing.assert_allclose(
        fitted.head.logits(ODD) - fitted.head.logits(ODD).mean(1, keepdims=True),
        peer.decision_function((ODD - mean) / spread),
        rtol=1e-3,
        atol=1e-3,
    )
    origin = next(iter(fitted.calibrated.origins.values()))
    assert "classes left out" in "".join(fitted.calibrated.describe())
    assert origin.fitted_on == f"normal examples ({len(teach)})"
    assert fitted.calibrated.is_ood(score(fitted, ODD, CLASSES)).mean() > 0.9


@pytest.mark.parametrize("rare", [1, 2, 4, 9])
@pytest.mark.parametrize("classes", [3, 5])
def test_nearly_all_examples_are_of_one_class(rare, classes):
    """Where that class is left out, the others are hardly anything to fit to, or to tell from outliers."""
    labels = np.repeat(np.arange(classes), [200, *[rare] * (classes - 1)])
    features = np.random.default_rng(0).normal(size=(len(labels), 8)) + 5 * np.eye(8)[labels]
    fitted = fit_normal(features.astype(np.float32), labels, "abcde"[:classes], alpha=0.1, with_head=True)
    assert np.isfinite(fitted.head.weight).all() and fitted.accuracy > 0.95


def test_calibration_examples_take_no_part_in_the_choice():
    distorted = Distorted(ODD[:120], np.arange(120))
    one = fit_normal(NORMAL, LABELS, CLASSES, alpha=0.1, with_head=True, distorted=distorted)
    changed = NORMAL.copy()
    changed[one.split.calibration] = RANDOM.normal(size=(len(one.split.calibration), WIDTH))
    two = fit_normal(changed, LABELS, CLASSES, alpha=0.1, with_head=True, distorted=distorted)
    assert [vars(d.settings) for d in one.calibrated.detectors.values()] == [
        vars(d.settings) for d in two.calibrated.detectors.values()
    ]
    np.testing.assert_array_equal(one.head.weight, two.head.weight)
    teaches = np.isin(np.arange(120), one.split.fit)
    assert one.calibrated.catches[0].images == (~teaches).sum()  # and is measured on their copies alone


def test_one_known_bad_example_finds_others_like_it():
    near, _ = drawn(100, (0,), seed=3)
    near[:, 0] += 4  # odd in one direction of twelve
    plain, known = fit_normal(NORMAL, alpha=0.05), fit_normal(NORMAL, alpha=0.05, bad={"scratch": near[:1]})
    assert known.calibrated.name == "knn + known_bad by sum"
    caught = [one.calibrated.is_ood(score(one, near[1:])).mean() for one in (plain, known)]
    assert caught[1] > caught[0] + 0.2
    far = np.mean([one.calibrated.is_ood(score(one, ODD)).mean() for one in (plain, known)])
    assert far > 0.9
    assert in_a_phrase(known.calibrated.catches).startswith("of pictures like scratch it catches ")
    assert " of 1" in in_a_phrase(known.calibrated.catches)
    (catch,) = known.calibrated.catches
    assert (catch.name, catch.images, catch.share) == ("scratch", 1, float(plain.calibrated.is_ood(
        score(plain, near[:1])
    )[0]))  # fmt: skip


def test_left_out_catches_equal_fits_without_each():
    near = drawn(9, (0, 1), seed=4)[0]
    near[:, 0] += 4
    bad = {"scratch": near[:5], "dent": near[5:]}
    found = fit_normal(NORMAL, alpha=0.05, bad=bad).calibrated
    for kind, rows in bad.items():
        caught = 0
        for place in range(len(rows)):
            rest = {**bad, kind: np.delete(rows, place, 0)}
            fitted = fit_normal(NORMAL, alpha=0.05, bad=rest)
            caught += int(fitted.calibrated.is_ood(score(fitted, rows[place : place + 1]))[0])
        (catch,) = [one for one in found.catches if one.name == kind]
        assert (catch.images, catch.share) == (len(rows), caught / len(rows))


def test_nearness_is_that_of_scipy():
    detector = KnownBad().fit(Outputs("bad", features=ODD[:7]))
    expected = -cdist(unit(NORMAL), unit(ODD[:7])).min(1)
    np.testing.assert_allclose(detector.score(Outputs("x", features=NORMAL)), expected, atol=1e-6)


def test_it_survives_its_file():
    fitted = fit_normal(NORMAL, alpha=0.1, bad={"odd": ODD[:2]}).calibrated
    again = unpack(*pack(fitted), "file")
    inputs = Inputs(Outputs("x", features=ODD))
    np.testing.assert_array_equal(again.score(inputs), fitted.score(inputs))
    assert again.catches == list(fitted.catches) and again.name == fitted.name


def test_several_detectors_are_summed_on_the_scale_of_held_out_examples():
    fitted = fit_normal(NORMAL, alpha=0.1, detector=["knn", "residual"])
    calibrated = fitted.calibrated
    assert calibrated.name == "knn + residual by sum"
    scores = {name: one.score(Outputs("x", features=ODD)) for name, one in calibrated.detectors.items()}
    parts = [(scores[n] - r.mean()) / r.std() for n, r in calibrated.references.items()]
    np.testing.assert_allclose(score(fitted, ODD), sum(parts))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"detector": "knnn"}, "unknown detector 'knnn'; known: auto, "),
        (
            {"detector": "energy"},
            "detector 'energy' reads a classifier of normal examples, and there is none",
        ),
        ({"bad": {"dent": np.zeros((0, WIDTH))}}, "known bad examples 'dent': there is none"),
        ({"bad": {"dent": np.ones((2, 3))}}, "have 3 features, normal ones 12"),
        ({"alpha": 0.001}, "240 normal examples are too few for alpha 0.001, which needs 1009"),
    ],
)
def test_wrong_input_is_named(given, words):
    with pytest.raises(InputError, match=words):
        fit_normal(NORMAL, **{"alpha": 0.05, **given})


def test_numbers_that_are_not_finite_are_refused():
    broken = NORMAL.copy()
    broken[7, 3] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        fit_normal(broken, alpha=0.05)


def test_a_constant_feature_has_no_say():
    rows = np.column_stack([NORMAL, np.ones(len(NORMAL))]).astype(np.float32)
    head = linear_head(rows, LABELS, 3)
    assert np.isfinite(head.weight).all()
    np.testing.assert_allclose(head.weight[:, -1], 0, atol=1e-12)


def test_it_says_how_many_copies_are_not_used():
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    split = split_normal(60, alpha=0.1, seed=0, groups=np.arange(60) // 2)
    assert split.unused == len(split.calibration)
    said = described(fit_normal(rows, alpha=0.1, detector="knn", split=split), 0)[0]
    assert said.endswith(f"; {split.unused} copies or boxes of what calibrates are not used.")
