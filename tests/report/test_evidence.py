"""Intervals and tests of the results: known winners, known ties, several seeds."""

import numpy as np
import pandas as pd
import pytest

from sslood.core.errors import InputError
from sslood.core.files import save_tensors
from sslood.ood.measures.comparison import Scores, delong_test, holm
from sslood.ood.measures.metrics import ood_metrics
from sslood.report.evidence import against_best, interval_notes, near_best, with_significance
from sslood.report.frame import ScoreFiles


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


@pytest.fixture
def written(tmp_path):
    """Three detectors: b is a with a little noise, c far worse; two seeds of model m, one ensemble."""
    random = np.random.default_rng(0)
    rows = []
    for stage, model, seed in (("posthoc", "m", 0), ("posthoc", "m", 1), ("ensemble", "committee", 0)):
        arrays = {}
        name = "any" if stage == "ensemble" else f"{seed}"
        for side, count, shift in (("id", 400, 0.0), ("far", 300, 1.5)):
            base = random.normal(size=count) + shift
            noise = random.normal(size=(2, count))
            arrays |= {f"{model}.a.{side}": base, f"{model}.b.{side}": base + 0.02 * noise[0]}
            arrays |= {f"{model}.c.{side}": base + 3 * noise[1]}
        for detector in "abc":
            auroc = ood_metrics(arrays[f"{model}.{detector}.id"], arrays[f"{model}.{detector}.far"])["auroc"]
            keys = {"stage": stage, "model": model, "detector": detector, "seed": seed, "set": "far"}
            rows.append(keys | {"role": "far", "auroc": auroc, "file": name})
        save_tensors(tmp_path / stage / f"{name}.safetensors", arrays, kind="scores", metadata={})
    return pd.DataFrame(rows), tmp_path


def test_the_worse_detector_is_recognised_and_the_twin_is_not(written):
    rows, folder = written
    found = with_significance(rows, ScoreFiles(folder, "id"))
    assert ((found["auroc_low"] < found["auroc"]) & (found["auroc"] < found["auroc_high"])).all()
    seed1 = found[found["seed"] == 1].set_index("detector")
    assert seed1["p_best"].max() == 1 and seed1.loc["c", "p_best"] < 1e-3 < seed1.loc["b", "p_best"]
    assert {key[1] for key in near_best(found) if key[0] == "m"} >= {"a", "b"} - {"c"}
    assert ("m", "c", "far") not in near_best(found)
    assert set(interval_notes(found)) == {("committee", detector, "far") for detector in "abc"}
    row = found[found["model"] == "committee"].iloc[0]
    text = f"[{100 * row.auroc_low:.1f}, {100 * row.auroc_high:.1f}]"
    assert interval_notes(found)[("committee", "a", "far")] == text


def test_p_values_are_those_of_the_paired_test_times_their_rank():
    random = np.random.default_rng(1)
    scores = {
        name: Scores(random.normal(size=200), random.normal(size=200) + shift)
        for name, shift in (("x", 1.0), ("y", 0.5), ("z", 0.8))
    }
    p = {name: delong_test(scores["x"], scores[name]).p_value for name in "yz"}
    small, large = sorted(p, key=p.get)
    expected = {"x": 1.0, small: min(1, 2 * p[small])}
    expected[large] = max(p[large], expected[small])
    found = dict(zip("xyz", against_best(scores, "x"), strict=True))
    assert found == pytest.approx(expected)


def test_an_informed_detector_is_not_compared_and_has_id_scores_of_its_own(written):
    rows, folder = written
    arrays = {"m.ssdk.id": np.zeros(5), "m.ssdk.id.far": np.arange(5.0), "m.ssdk.far": np.arange(5.0) + 2.5}
    save_tensors(folder / "ssdk" / "0.safetensors", arrays, kind="scores", metadata={})
    row = {
        "stage": "ssdk",
        "model": "m",
        "detector": "ssdk",
        "seed": 0,
        "set": "far",
        "role": "far",
        "file": "0",
    }
    found = with_significance(pd.DataFrame([*rows.to_dict("records"), row]), ScoreFiles(folder, "id"))
    last = found.iloc[-1]
    assert np.isnan(last["p_best"]) and 0 < last["auroc_low"] < 0.88 < last["auroc_high"] < 1
    assert ("m", "ssdk", "far") not in near_best(found)


def test_missing_scores_are_named(written):
    rows, folder = written
    rows.loc[0, "detector"] = "knn"
    with pytest.raises(
        InputError, match=r"0.safetensors: no scores of m.knn for far; run `dvc repro posthoc`"
    ):
        with_significance(rows, ScoreFiles(folder, "id"))


def test_a_mean_over_repeats_has_their_spread_and_no_interval(written):
    """The scores are those of the first repeat: an interval from them need not hold the mean."""
    rows, folder = written
    rows = rows.assign(repeats=np.where(rows["detector"] == "b", 5, np.nan), auroc_std=0.0123)
    found = with_significance(rows, ScoreFiles(folder, "id"))
    once = found[found["detector"] != "b"]
    assert ((once["auroc_low"] < once["auroc"]) & (once["auroc"] < once["auroc_high"])).all()
    assert found.loc[found["detector"] == "b", ["auroc_low", "auroc_high"]].isna().all(axis=None)
    notes = interval_notes(found)
    assert notes["committee", "b", "far"] == "± 1.2 (5 repeats)"
    assert notes["committee", "a", "far"].startswith("[")
