"""The figure of what settings and members change, of made-up results with known answers."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sslood.core.files import load_json, load_tensors, save_json, save_tensors
from sslood.report.ensembles import Swept, _along, _by_members, _disagreement, read_sweeps, sweeps
from tests.kit.summarised import OOD, written

ROLES = {"a": "near", "b": "far", "c": "far"}


def point(temperature, epsilon, target, value):
    auroc = {"a": value, "b": value - 0.1, "c": value - 0.3}
    return {"temperature": temperature, "epsilon": epsilon, "target": target, "auroc": auroc}


POINTS = [
    point(1.0, 0.0, "predicted", 0.8),
    point(1.0, 0.002, "predicted", 0.85),
    point(1.0, 0.002, "entropy", 0.7),
    point(9.0, 0.0, "predicted", 0.9),
    point(9.0, 0.002, "predicted", 0.95),
    point(9.0, 0.002, "entropy", 0.6),
]
CHOSEN = {"temperature": 9.0, "epsilon": 0.002, "target": "predicted"}
MEMBERS = [{"a": 0.5, "b": 0.6, "c": 0.8}, {"a": 0.9, "b": 0.7, "c": 0.9}]
APART = {name: {"variation_ratio": 0.1 * n, "mutual_information": 0.0} for n, name in enumerate("abc", 1)}
SWEPT = Swept(CHOSEN, POINTS, MEMBERS, {"own": APART["a"], **APART})


@pytest.fixture
def axis():
    return Figure().subplots()


def lines(axis):
    return {line.get_label(): np.array(line.get_data()).T.tolist() for line in axis.get_lines()[:-1]}


def test_a_line_varies_one_part_of_the_chosen_setting(axis):
    _along(axis, SWEPT, "epsilon", ROLES)
    assert lines(axis) == {
        "near, step by predicted": [[0.0, pytest.approx(90)], [0.002, pytest.approx(95)]],
        "far, step by predicted": [[0.0, pytest.approx(70)], [0.002, pytest.approx(75)]],
        "near, step by entropy": [[0.0, pytest.approx(90)], [0.002, pytest.approx(60)]],
        "far, step by entropy": [[0.0, pytest.approx(70)], [0.002, pytest.approx(40)]],
    }
    assert axis.get_lines()[-1].get_xdata() == [0.002, 0.002]  # what was chosen


def test_along_the_temperature_the_step_is_the_chosen_one(axis):
    _along(axis, SWEPT, "temperature", ROLES)
    found = lines(axis)
    assert found["near, step by predicted"] == [[1.0, pytest.approx(85)], [9.0, pytest.approx(95)]]
    assert found["far, step by entropy"] == [[1.0, pytest.approx(50)], [9.0, pytest.approx(40)]]


def test_members_and_disagreement(axis):
    _by_members(axis, SWEPT, ROLES)
    near, far = (line.get_ydata() for line in axis.get_lines())
    assert list(near) == [50, 90] and list(far) == pytest.approx([70, 80])
    bars = Figure().subplots()
    _disagreement(bars, SWEPT, "own")
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([10, 10, 20, 30])


def test_the_page_shows_the_sweep_of_an_ensemble_that_has_one(tmp_path):
    run, path = written(tmp_path), tmp_path / "results/ensemble/wrn-margin.json"
    content = load_json(path)
    rows = content["models"]["leaveout_wrn"]
    rows["eloc_1"] = {name: {**rows["eloc"][name], "auroc": 0.5} for name in OOD}
    points = [{**one, "auroc": dict.fromkeys(OOD, 0.7)} for one in POINTS]
    apart = {name: APART["a"] for name in ("digits", *OOD)}
    sweep = {"leaveout_wrn": {"chosen": CHOSEN, "points": points, "disagreement": apart}}
    save_json(path, {**content, "sweep": sweep})
    assert read_sweeps([path])["leaveout_wrn"].members == [dict.fromkeys(OOD, 0.5), dict.fromkeys(OOD, 0.99)]
    del rows["eloc_1"]
    save_json(path, {**content, "sweep": sweep})
    run()
    html = (tmp_path / "metrics_report/index.html").read_text()
    assert html.count("<svg") == 4 and "Ensembles: settings and members</h2>" in html
    drawing = html.split("Ensembles: settings and members</h2>")[1].split("</svg>")[0]
    for word in ("leaveout_wrn", "step in pixels", "temperature", "members against", *OOD):
        assert word in drawing


def test_published_steps_are_shown_and_never_the_best(tmp_path):
    """With a perfect AUROC and scores of ID images of its own for each set, as SSD_k has them."""
    run, path = written(tmp_path), tmp_path / "results/ensemble/wrn-margin.json"
    run()
    said = "Nor does eloc_published, whose step was chosen for each OOD set."
    plain = (tmp_path / "metrics/table.md").read_text()
    content = load_json(path)
    rows = content["models"]["leaveout_wrn"]
    rows["eloc_published"] = {name: {**rows["eloc"][name], "auroc": 1.0} for name in OOD[:2]}
    save_json(path, content)
    file = tmp_path / "scores/ensemble/wrn-margin.safetensors"
    scores = {key: np.array(values) for key, values in load_tensors(file, kind="scores")[0].items()}
    prefix = "leaveout_wrn.eloc_published"
    for name in OOD[:2]:
        scores |= {f"{prefix}.digits.{name}": np.arange(50.0), f"{prefix}.{name}": np.arange(50.0) + 50}
    save_tensors(file, {**scores, f"{prefix}.digits": np.arange(50.0)}, kind="scores", metadata={})
    run()
    table, glance = (
        (tmp_path / "metrics/table.md").read_text(),
        (tmp_path / "metrics_report/index.html").read_text(),
    )
    assert said in table and said in glance and said not in plain and "**100.0**" not in table
    assert "eloc_published" not in glance.split("At a glance</h2>")[1].split("</table>")[0]
    found = pd.read_csv(tmp_path / "metrics/results.csv").query("detector == 'eloc_published'")
    assert list(found["set"]) == list(OOD[:2]) and found["p_best"].isna().all()
    assert (found["auroc_high"] == 1).all() and found["flagged"].isna().all()
    assert list(found["auroc_low"]) == pytest.approx([0.025 ** (1 / 50)] * 2, abs=1e-6)


def test_a_line_style_is_a_targets_in_every_row_and_the_legend_knows_all(axis, monkeypatch):
    other = SWEPT._replace(chosen={**CHOSEN, "target": "entropy"})
    for swept in (SWEPT, other):
        panel = Figure().subplots()
        _along(panel, swept, "epsilon", ROLES)
        styles = {line.get_label(): line.get_linestyle() for line in panel.get_lines()[:-1]}
        assert styles["near, step by predicted"] == "-" and styles["near, step by entropy"] == "--"
    outside = SWEPT._replace(chosen={**CHOSEN, "temperature": 5.0, "epsilon": 0.5})  # a fallback
    drawing = sweeps({"first": outside, "second": SWEPT}, ROLES, "own")
    for label in ("near, step by predicted", "far, step by predicted", "near, step by entropy"):
        assert drawing.count(f">{label}</text>") == 1
    assert sweeps({"only": outside}, ROLES, "own").count("<svg") == 1
