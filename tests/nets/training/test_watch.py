import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from sslood.nets.training import watch
from sslood.nets.training.watch import (
    RIDGE,
    effective_rank,
    knn_accuracy,
    knn_labels,
    linear_accuracy,
    spread,
)


def normal(n, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def test_spread_is_1_for_an_isotropic_gaussian_and_0_for_a_point():
    assert spread(normal(20000, 32)).item() == pytest.approx(1, abs=0.01)
    assert spread(torch.ones(50, 32)).item() == pytest.approx(0, abs=1e-6)


def test_effective_rank_of_known_spectra():
    basis = torch.linalg.qr(normal(40, 8))[0]
    assert effective_rank(basis) == pytest.approx(8)  # eight equal singular values
    assert effective_rank(basis[:, :3] @ basis[:8, :3].T) <= 3 + 1e-6
    weights = torch.tensor([3.0, 1.0] + [0.0] * 6).double()
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(basis * weights) == pytest.approx(expected, rel=1e-5)


def test_knn_accuracy_against_a_plain_loop_on_real_digits():
    digits = load_digits()
    x, y = torch.from_numpy(digits.data), torch.from_numpy(digits.target)
    bank, labels, queries, truth = x[:600], y[:600], x[600:900], y[600:900]
    right = 0
    for query, label in zip(queries.numpy(), truth.numpy(), strict=True):
        similarity = (bank.numpy() @ query) / np.linalg.norm(bank.numpy(), axis=1) / np.linalg.norm(query)
        votes = np.zeros(10)
        for i in np.argsort(-similarity)[:7]:
            votes[labels[i]] += np.exp(similarity[i] / 0.2)
        right += votes.argmax() == label
    ours = knn_accuracy(bank, labels, queries, truth, k=7, temperature=0.2)
    assert ours == pytest.approx(right / 300)
    assert ours > 0.9


def test_sums_over_chunks_are_the_whole(monkeypatch):
    digits = load_digits()
    x, y = torch.from_numpy(digits.data), torch.from_numpy(digits.target)
    whole = effective_rank(x), linear_accuracy(x[:600], y[:600], x[600:], y[600:])
    monkeypatch.setattr(watch, "CHUNK", 100)
    assert effective_rank(x) == pytest.approx(whole[0], rel=1e-12)
    assert linear_accuracy(x[:600], y[:600], x[600:], y[600:]) == whole[1]


def test_float64_features_are_compared_in_float64():
    """Cosines that differ by 1e-10: float32 does not tell them apart, and the vote follows the kernels."""
    near = 1e-5 * torch.tensor([[0.0, 1.0], [0.0, 1.1]], dtype=torch.float64)
    bank = torch.tensor([[1.0, 0.0]], dtype=torch.float64) + near
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for labels in ([0, 1], [1, 0]):
        winner = knn_labels(bank, torch.tensor(labels), query, k=1, temperature=0.1)
        assert winner.tolist() == labels[:1]
    assert spread(bank).dtype == torch.float64


def test_a_bank_smaller_than_k_votes_as_a_whole():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert knn_accuracy(bank, torch.tensor([0, 1]), bank, torch.tensor([0, 1]), k=20) == 1.0


def test_linear_accuracy_is_scikit_learns_ridge_classifier():
    digits = load_digits()
    x, y = digits.data, digits.target
    scaler = StandardScaler().fit(x[:600])
    # scikit-learn's penalty is for the sum of squares and labels of -1 and 1: times N; the argmax is the same
    ridge = RidgeClassifier(alpha=RIDGE * 600).fit(scaler.transform(x[:600]), y[:600])
    expected = ridge.score(scaler.transform(x[600:]), y[600:])
    parts = [torch.from_numpy(part) for part in (x[:600], y[:600], x[600:], y[600:])]
    assert linear_accuracy(*parts) == pytest.approx(expected, abs=1e-9)
    assert linear_accuracy(parts[0].float(), parts[1], parts[2].float(), parts[3]) > 0.85
