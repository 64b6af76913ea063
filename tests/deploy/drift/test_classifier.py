"""The classifier two-sample test against scikit-learn, and against what MMD sees and does not see."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import roc_auc_score

from sslood.deploy.drift.classifier import RIDGE, aurocs, held_out_outputs
from sslood.deploy.drift.state import State, load_state, save_state
from sslood.deploy.drift.vectors import compare_vectors


def test_each_vector_is_judged_by_a_classifier_that_did_not_see_it():
    random = np.random.default_rng(0)
    rows, choice = random.normal(size=(18, 4)), np.arange(18) < 7
    centred = rows - rows.mean(0)
    kernel, target = centred @ centred.T, choice - choice.mean()
    found = held_out_outputs(kernel, choice[None])[:, 0]
    for left in range(18):
        others = np.delete(np.arange(18), left)
        ridge = KernelRidge(alpha=RIDGE * np.trace(kernel) / 18, kernel="precomputed")
        ridge.fit(kernel[np.ix_(others, others)], target[others])
        assert found[left] == pytest.approx(ridge.predict(kernel[[left]][:, others])[0], abs=1e-10)


def test_aurocs_by_scikit_learn():
    random = np.random.default_rng(1)
    outputs, choices = random.integers(0, 5, (30, 3)).astype(float), random.random((3, 30)) < 0.4
    expected = [roc_auc_score(choice, outputs[:, at]) for at, choice in enumerate(choices)]
    assert aurocs(outputs, choices) == pytest.approx(expected)


def test_vectors_of_one_kind_have_uniform_p_values():
    random, found = np.random.default_rng(3), []
    for place in range(120):
        x, y = random.normal(size=20 * 3).reshape(20, 3), random.normal(size=(15, 3))
        found.append(compare_vectors(x, y, seed=place, permutations=99).classifier_p)
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(found) <= level) - level) <= 4 * np.sqrt(level * (1 - level) / 120)


def test_it_sees_a_shift_along_a_direction_of_little_variance_which_mmd_does_not():
    random = np.random.default_rng(4)
    scale = np.array([30.0] + [1.0] * 7)
    x, y = random.normal(size=(2, 150, 8)) * scale
    y[:, 3] += 1.5
    found = compare_vectors(x, y, seed=0, permutations=199)
    assert found.classifier_p == 1 / 200 and found.p_value > 0.05 and found.auroc > 0.7
    wide = compare_vectors(x, 0.6 * scale * random.normal(size=(150, 8)), seed=0)
    assert wide.classifier_p == 1 / 500, "same mean, narrower"
    same = compare_vectors(np.ones((9, 2)), np.ones((9, 2)), seed=0)
    assert (same.auroc, same.classifier_p) == (0.5, 1.0)


def test_a_stream_of_before_this_test_goes_on(tmp_path):
    state = State.begin("d", np.arange(100.0), delta=0.01, seed=0)
    record = {"name": "old", "images": 3, "flagged": 0, "flags_p": 1.0, "scores_p": 0.5, "evidence": 0.0}
    record |= {"highest": 0.1, "vectors_p": 0.2, "digest": "x"}
    old = State(**{**asdict(state), "batches": (record,), "images": 3})
    save_state(tmp_path / "s.json", old)
    assert "classifier_p" not in json.dumps(json.loads((tmp_path / "s.json").read_text()))
    (again,) = load_state(tmp_path / "s.json", "d").records
    assert (again.vectors_p, again.classifier_p) == (0.2, None)
