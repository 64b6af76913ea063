import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from sslood.core.errors import InputError
from sslood.core.files import save_tensors
from sslood.nets.probing.linear import fit_linear, linear_logits
from sslood.nets.probing.model import probe_model
from sslood.nets.probing.probes import (
    KNNProbeSettings,
    LinearProbeSettings,
    expected_calibration_error,
    knn_scores,
    probe_few_labels,
    probe_knn,
    probe_linear,
    top_accuracy,
)
from tests.kit.small import digit_images


@pytest.fixture(scope="module")
def digits():
    images, labels = digit_images()
    return images.reshape(len(images), -1).astype(np.float32) / 255, labels


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_nearest_neighbours_vote_as_scikit_learns(digits, k, temperature):
    x, y = digits
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)

    def weights(distance):  # of unit vectors: |a - b|^2 = 2 - 2 cos
        return np.exp((1 - distance**2 / 2) / temperature)

    reference = KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(unit[:1000], y[:1000])
    found = knn_scores(x[:1000], y[:1000], x[1000:], classes=10, ks=[k], temperature=temperature)[k]
    share = found / found.sum(1, keepdims=True)
    np.testing.assert_allclose(share, reference.predict_proba(unit[1000:]), atol=1e-6)


def test_several_ks_share_one_search(digits):
    x, y = digits
    both = knn_scores(x[:500], y[:500], x[500:600], classes=10, ks=[3, 20], temperature=0.1)
    for k in (3, 20):
        alone = knn_scores(x[:500], y[:500], x[500:600], classes=10, ks=[k], temperature=0.1)[k]
        np.testing.assert_allclose(both[k], alone, rtol=1e-12)


def test_k_and_temperature_out_of_range_are_refused(digits):
    x, y = digits
    with pytest.raises(InputError, match=r"knn.k is \[11\], but there are 10 training images"):
        knn_scores(x[:10], y[:10], x, classes=10, ks=[11], temperature=0.1)
    with pytest.raises(InputError, match="knn.temperature must be above 0, found 0"):
        knn_scores(x[:10], y[:10], x, classes=10, ks=[1], temperature=0)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_probe_is_scikit_learns_logistic_regression(digits, l2):
    x, y = digits[0][:400], digits[1][:400]
    reference = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=5000).fit(x.astype(np.float64), y)
    weights = fit_linear(x, y, classes=10, l2=l2)
    expected = log_softmax(reference.decision_function(x.astype(np.float64)), axis=1)
    np.testing.assert_allclose(log_softmax(linear_logits(x, weights), axis=1), expected, atol=5e-3)
    p = softmax(linear_logits(x.astype(np.float64), weights), axis=1)  # the gradient is zero
    gradient = x.astype(np.float64).T @ (p - np.eye(10)[y]) / len(x) + l2 * weights[:-1]
    assert np.abs(gradient).max() < 1e-12


@pytest.mark.parametrize(("rows", "l2"), [(9, 1e-4), (400, 0.0)])
def test_labels_that_are_missing_or_separable_end_the_probe(digits, rows, l2):
    x, y = digits[0][:rows], digits[1][:rows]
    weights = fit_linear(x, y, classes=10, l2=l2)
    assert np.isfinite(weights).all() and top_accuracy(linear_logits(x, weights), y) == 1.0


def test_linear_probe_does_not_depend_on_its_start(digits):
    x, y = digits[0][:400], digits[1][:400]
    start = np.random.default_rng(0).normal(size=(65, 10))
    one, two = (fit_linear(x, y, classes=10, l2=1e-2, start=first) for first in (None, start))
    np.testing.assert_allclose(
        softmax(linear_logits(x, one), 1), softmax(linear_logits(x, two), 1), atol=1e-10
    )


def test_of_equally_near_neighbours_the_first_ones_vote():
    bank = np.repeat(np.eye(3), [4, 3, 3], axis=0) + 1e-15 * np.random.default_rng(0).random((10, 3))
    labels = np.arange(10)
    scores = knn_scores(bank, labels, np.eye(3), classes=10, ks=[2], temperature=1.0)[2]
    assert [np.flatnonzero(row).tolist() for row in scores] == [[0, 1], [4, 5], [7, 8]]


CHILD = """
import sys
import numpy as np
from sslood.core.files import save_json
from sslood.nets.probing import probes

random = np.random.default_rng(0)
labels = random.integers(0, 8, 1300)
x = (random.normal(size=(8, 32))[labels] + 2 * random.normal(size=(1300, 32))).clip(0).astype(np.float32)
x[700:1300] = x[100:700]  # equal images
cuts = {"train": slice(0, 900), "validation": slice(900, 1000), "test": slice(1000, 1300)}
sets = {split: (x[rows], labels[rows]) for split, rows in cuts.items()}
settings = probes.KNNProbeSettings(k=(5, 20), temperature=0.07)
save_json(sys.argv[1], [
    probes.probe_knn(sets, settings, classes=8),
    probes.probe_linear(sets, [1e-4, 1e-3, 1e-2], classes=8),
    probes.probe_few_labels(sets, 0.01, [1e-4, 1e-2], classes=8, seed=0),
])
"""


def test_results_are_the_same_bytes_under_other_kernels_and_threads(tmp_path):
    """OpenBLAS's and NumPy's generic kernels against those of this CPU."""
    old = {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
    for name, kernels in (("own", {}), ("one", {"OPENBLAS_NUM_THREADS": "1"}), ("old", old)):
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(tmp_path / name)]
        done = subprocess.run(command, env=os.environ | kernels, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "own").read_bytes() == (tmp_path / "one").read_bytes()
    assert (tmp_path / "own").read_bytes() == (tmp_path / "old").read_bytes()


def test_top_accuracy_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(500, 10)), rng.integers(0, 10, 500)
    for k in (1, 5):
        assert top_accuracy(scores, labels, k) == pytest.approx(top_k_accuracy_score(labels, scores, k=k))
    assert top_accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 0])) == 0.5


def test_calibration_error_of_known_confidences():
    # 80 % sure and right in half of the cases; 15 bins do not part equal confidences
    p = np.tile([0.8, 0.1, 0.1], (100, 1))
    labels = np.array([0] * 50 + [1] * 50)
    assert expected_calibration_error(np.log(p), labels) == pytest.approx(0.3)
    sure = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    assert expected_calibration_error(sure, np.array([0, 1])) == 0.0
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200_000, 4))
    drawn = (rng.random((200_000, 1)) > softmax(logits, 1).cumsum(1)).sum(1)  # labels as the model believes
    assert expected_calibration_error(logits, drawn) < 0.005


def test_a_probe_chooses_on_validation_and_reports_test(digits):
    x, y = digits
    sets = {
        "train": (x[:1000], y[:1000]),
        "validation": (x[1000:1200], y[1000:1200]),
        "test": (x[1200:], y[1200:]),
    }
    settings = KNNProbeSettings(k=(5, 500), temperature=0.07)

    def probed(sets):
        knn = probe_knn(sets, settings, classes=10)
        return {"knn": knn, "linear": probe_linear(sets, [1e-3, 10.0], classes=10)}

    found = probed(sets)
    assert found["knn"]["k"] == 5 and found["linear"]["l2"] == 1e-3
    assert found["knn"]["accuracy"] > 0.93 and found["linear"]["accuracy"] > 0.88
    assert found["knn"]["accuracy_top5"] >= found["knn"]["accuracy"]
    assert 0 <= found["linear"]["ece"] < 0.2
    wrong = {**sets, "test": (x[1200:], (y[1200:] + 1) % 10)}
    again = probed(wrong)
    assert again["knn"]["k"] == 5 and again["linear"]["l2"] == 1e-3  # test labels choose nothing
    assert again["knn"]["accuracy"] < 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_have_no_accuracy(value):
    """No number is larger than NaN, so that every label of NaN scores was the first."""
    scores = np.eye(3)
    scores[1] = value
    with pytest.raises(InputError, match="the class scores of 1 of 3 images are NaN or infinite"):
        top_accuracy(scores, np.arange(3))


def test_few_labels_leave_no_class_without_one():
    """With classes that a line tells apart, one label of each is enough."""
    labels = np.repeat([0, 1, 2], [900, 50, 50])
    features = np.eye(3, dtype=np.float32)[labels] + 0.01 * np.random.default_rng(0).normal(size=(1000, 3))
    sets = dict.fromkeys(("train", "validation", "test"), (features.astype(np.float32), labels))
    assert probe_few_labels(sets, 0.01, [1e-3], classes=3, seed=0)["accuracy"] == 1


def test_the_last_class_of_a_set_to_transfer_to_may_have_no_image_to_learn_from(tmp_path):
    """One image of three hundred is none of fifty, but test shows its class all the same."""
    labels = np.append(np.repeat([0, 1, 2], 100), 3)
    features = np.eye(4, dtype=np.float32)[labels]
    known = slice(200)  # of the ID set, classes 0 and 1
    arrays = {"id": (features[known], labels[known]), "other": (features, labels)}
    tensors = {
        f"{name}.{split}.{part}": array
        for name, pair in arrays.items()
        for split in ("train", "validation", "test")
        for part, array in zip(("features", "labels"), pair, strict=True)
    }
    meta = {
        "id": "id", "classes": ["0", "1"], "model_metadata": {"head_classes": None},
        "sets": {"id": {"role": "id"}, "other": {"role": "transfer"}},
    }  # fmt: skip
    path = str(tmp_path / "model.safetensors")
    save_tensors(path, tensors, kind="embeddings", metadata=meta)
    knn, linear = KNNProbeSettings(k=(1,), temperature=0.1), LinearProbeSettings(l2=(1e-3,))
    found, reasons = probe_model(path, meta, knn, linear, seed=0, judge_head=lambda *_: {}, most=50)
    assert found["transfer_other"]["accuracy"] == pytest.approx(300 / 301, abs=1e-6) and not reasons
