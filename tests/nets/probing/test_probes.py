import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from sslood.core.errors import InputError
from sslood.nets.probing.probes import (
    expected_calibration_error,
    fit_linear,
    knn_scores,
    linear_logits,
    probe_model,
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
    with pytest.raises(InputError, match="knn.temperature is 0"):
        knn_scores(x[:10], y[:10], x, classes=10, ks=[1], temperature=0)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_probe_is_scikit_learns_logistic_regression(digits, l2):
    x, y = digits[0][:400], digits[1][:400]
    reference = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=5000).fit(x.astype(np.float64), y)
    weights = fit_linear(x, y, classes=10, l2=l2)
    expected = log_softmax(reference.decision_function(x.astype(np.float64)), axis=1)
    np.testing.assert_allclose(log_softmax(linear_logits(x, weights), axis=1), expected, atol=5e-3)


def test_linear_probe_does_not_depend_on_its_start(digits):
    x, y = digits[0][:400], digits[1][:400]
    start = np.random.default_rng(0).normal(size=(65, 10))
    one, two = (fit_linear(x, y, classes=10, l2=1e-2, start=first) for first in (None, start))
    np.testing.assert_allclose(
        softmax(linear_logits(x, one), 1), softmax(linear_logits(x, two), 1), atol=1e-4
    )


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
    found = probe_model(sets, classes=10, ks=[5, 500], temperature=0.07, l2s=[1e-3, 10.0])
    assert found["knn"]["k"] == 5 and found["linear"]["l2"] == 1e-3
    assert found["knn"]["accuracy"] > 0.93 and found["linear"]["accuracy"] > 0.88
    assert found["knn"]["accuracy_top5"] >= found["knn"]["accuracy"]
    assert 0 <= found["linear"]["ece"] < 0.2
    wrong = {**sets, "test": (x[1200:], (y[1200:] + 1) % 10)}
    again = probe_model(wrong, classes=10, ks=[5, 500], temperature=0.07, l2s=[1e-3, 10.0])
    assert again["knn"]["k"] == 5 and again["linear"]["l2"] == 1e-3  # test labels choose nothing
    assert again["knn"]["accuracy"] < 0.1
