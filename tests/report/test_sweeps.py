"""The tables and figures of a sweep, on made results whose means are known."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from sslood.report.sweeps import Sweep, effects_table, settings_table, write_sweep

BETAS, SAMPLES, SEEDS = (0.1, 1e-7), (1, 4, 16), (0, 1)
GAIN = {0.1: 0.0, 1e-7: 0.1, 1: 0.0, 4: 0.02, 16: 0.07}
OFF = {0: -0.01, 1: 0.01}  # of a seed
SETS = {"a": ("near", 0.5), "b": ("near", 0.6), "c": ("far", 0.7)}


def made(left_out=()) -> Sweep:
    """Return the results of objective x, crossed, whose AUROCs are sums, and of y, which has no factors."""
    scores, encoders = [], []
    cells = [{"objective": "x", "beta": b, "samples": s} for b, s in product(BETAS, SAMPLES)]
    for cell, seed in product([*cells, {"objective": "y"}], SEEDS):
        own = {**cell, "seed": seed}
        if own in left_out:
            continue
        gain = GAIN.get(cell.get("beta"), 0.0) + GAIN.get(cell.get("samples"), 0.0) + OFF[seed]
        encoders.append({**own, "knn_accuracy": 0.8 + gain})
        for name, (role, base) in SETS.items():
            row = {"detector": "knn", "set": name, "role": role, "auroc": base + gain}
            scores.append({**own, **row})
    factors = ["objective", "beta", "samples"]
    return Sweep("s", "digits", "objective", factors, pd.DataFrame(scores), pd.DataFrame(encoders), {})


def test_a_factors_effect_is_its_mean_over_the_others_and_its_spread_that_over_seeds():
    effects = made().effects("samples")
    assert list(effects) == ["x"]  # y does not have it
    points = effects["x"]["near"]["knn"]
    assert [point.name for point in points] == ["1", "4", "16"]
    # near is (0.5 + 0.6) / 2, the mean over beta adds 0.05, seeds cancel
    assert [point.mean for point in points] == pytest.approx([0.6 + GAIN[level] for level in SAMPLES])
    assert [point.spread for point in points] == pytest.approx([np.std([-0.01, 0.01], ddof=1)] * 3)
    assert effects["x"]["accuracy"]["kNN"][2].mean == pytest.approx(0.85 + GAIN[16])


def test_only_settings_with_all_levels_count():
    """Else a level whose cells failed where others are good would look bad."""
    gone = {"objective": "x", "beta": 1e-7, "samples": 16, "seed": 0}
    points = made([gone]).effects("samples")["x"]["far"]["knn"]
    # of seed 0 only beta 0.1 is complete, of seed 1 both are
    expected = [0.7 + GAIN[level] + (0.0 + 0.05) / 2 for level in SAMPLES]
    assert [point.mean for point in points] == pytest.approx(expected)


def test_levels_that_six_digits_do_not_tell_apart_keep_their_own_names():
    sweep = made()
    close = {1e-7: 0.10000001}
    frames = [frame.replace({"beta": close}) for frame in (sweep.scores, sweep.encoders)]
    points = replace(sweep, scores=frames[0], encoders=frames[1]).effects("beta")["x"]["near"]["knn"]
    assert [point.name for point in points] == ["0.1", "0.10000001"]
    assert points[1].mean - points[0].mean == pytest.approx(0.1)


def test_an_average_lacks_no_set():
    sweep = made()
    scores = sweep.scores[~((sweep.scores["set"] == "b") & (sweep.scores["samples"] == 4))]
    settings = replace(sweep, scores=scores).settings
    near = settings[settings["panel"] == "near"]
    assert set(near["samples"]) == {"1", "16", "–"}


def test_tables_and_figures_are_written(tmp_path):
    sweep = made()
    table = settings_table(sweep, ["near", "far"])
    assert table.header == ["objective", "beta", "samples", "knn"]
    assert table.rows[0] == ["x", "0.1", "1", "55.0 ± 1.4 / 70.0 ± 1.4"]
    assert table.rows[-1] == ["y", "–", "–", "55.0 ± 1.4 / 70.0 ± 1.4"]
    objectives = effects_table(sweep.effects("objective"), "objective", "objective", ["near"])
    assert objectives.rows == [["x", "63.0 ± 1.4"], ["y", "55.0 ± 1.4"]]  # x over all of its settings
    own = effects_table(sweep.effects("beta"), "beta", "objective", ["far"])
    assert own.rows == [["x", "0.1", "73.0 ± 1.4"], ["x", "1e-07", "83.0 ± 1.4"]]
    sweep = replace(sweep, left_out={"x, beta 1, seed 0": "diverged"})
    write_sweep(tmp_path, sweep)
    names = {file.name for file in tmp_path.iterdir()}
    figures = {"objective.svg", "beta.svg", "samples.svg"}
    assert names == {"scores.csv", "encoders.csv", "settings.csv", "table.md", *figures}
    text = (tmp_path / "table.md").read_text()
    assert all(f"({name})" in text for name in figures) and "- x, beta 1, seed 0: diverged" in text
    rows = pd.read_csv(tmp_path / "scores.csv")
    assert len(rows) == 14 * 3 and rows["beta"].isna().sum() == 2 * 3
    assert "x,1e-07,16,0,knn,a," in (tmp_path / "scores.csv").read_text()
    svg = (tmp_path / "samples.svg").read_text()
    assert all(f">{word}<" in svg for word in ("samples", "1", "4", "16", "knn", "x"))


def test_a_sweep_whose_detectors_are_all_left_out_still_has_its_encoders(tmp_path):
    """Such as one of Gaussians with an objective that has none; its trainings may have taken hours."""
    reason = {"x, beta 1, seed 0, kl_prior": "embeddings are no Gaussians"}
    write_sweep(tmp_path, replace(made(), scores=pd.DataFrame([]), left_out=reason))
    text = (tmp_path / "table.md").read_text()
    assert "| x | 0.1 | 1 | 80.0 ± 1.4 |" in text.replace("`", "") and "embeddings are no Gaussians" in text
    assert "near / far" not in text and (tmp_path / "scores.csv").is_file()
