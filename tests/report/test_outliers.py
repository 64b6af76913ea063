"""Before and after a training against outliers, from results whose means are known."""

from types import SimpleNamespace

import pandas as pd
import pytest

from sslood.core.errors import InputError
from sslood.core.files import save_json
from sslood.report import figures
from sslood.report.frame import over_seeds
from sslood.report.outliers import before_and_after, by_set, changes, chose, panels, read_trained
from sslood.report.render import ENVIRONMENT

RUNS = "runs: {seeds: [0, 1], outlier_losses: [oe], energy_modes: [full], energy_inits: [start]}\n"


def energies(shift):
    def numbers(median):
        quantiles = [median - 2, median - 1, median, median + 1, median + 4]
        return {"mean": median + 0.5, "quantiles": quantiles, "counts": [1, 3]}

    return {
        "levels": [0.05, 0.25, 0.5, 0.75, 0.95],
        "edges": [-9.0, -5.0, 0.0],
        "before": {"validation": numbers(-8), "auxiliary": numbers(-4)},
        "after": {"validation": numbers(-8 - shift), "auxiliary": numbers(-2)},
        "outliers": {"n": 300, "left_out": 0},
    }


def measured(epoch, accuracy, auroc, oscr):
    figures = {"validation_accuracy": accuracy, "validation_auroc": auroc, "validation_oscr": oscr}
    return {"epoch": epoch, **figures}


@pytest.fixture
def trained(tmp_path):
    (tmp_path / "params.yaml").write_text(RUNS)
    for seed in (0, 1):
        save_json(tmp_path / f"oe_full_start-{seed}.json", energies(shift=seed))
    return read_trained(tmp_path, f"{tmp_path}/params.yaml:runs")


@pytest.fixture(scope="module")
def summary():
    rows = []
    for model, gain in (("start", 0.0), ("oe_full_start", 0.05)):
        for seed in (0, 1):
            keys = {"model": model, "detector": "energy", "seed": seed}
            spread = 0.01 * (2 * seed - 1)
            rows.append({**keys, "role": "near", "auroc": 0.8 + gain + spread, "fpr95_id": 0.6 - gain})
            rows.append({**keys, "role": "far", "auroc": 0.9 + spread, "fpr95_id": 0.4 - 4 * gain})
    wrong = [("start", 0.10), ("oe_full_start", 0.12)]
    mistakes = [
        {"model": m, "seed": s, "error": e, "aurc": 0.01, "ece": e / 4} for m, e in wrong for s in (0, 1)
    ]
    by_role = over_seeds(pd.DataFrame(rows), ["auroc", "fpr95_id"])
    return SimpleNamespace(by_role=by_role, mistakes=pd.DataFrame(mistakes))


def test_before_and_after_are_means_over_seeds(summary, trained):
    table = before_and_after(summary, trained)
    assert table.header == ["before → after", "oe_full_start"]
    assert dict(table.rows) == {
        "median energy, ID": "-8.00 → -8.50",
        "median energy, outliers": "-4.00 → -2.00",
        "mean energy [5 %, 95 %], ID": "-7.50 [-10.0, -4.0] → -8.00 [-10.5, -4.5]",
        "mean energy [5 %, 95 %], outliers": "-3.50 [-6.0, 0.0] → -1.50 [-4.0, 2.0]",
        "AUROC of energy, near / far": "80.0 / 90.0 → 85.0 / 90.0",
        "FPR95 of energy, near / far": "60.0 / 40.0 → 55.0 / 20.0",
        "AUROC of msp, near / far": "– → –",
        "FPR95 of msp, near / far": "– → –",
        "accuracy": "90.0 → 88.0",
        "AURC ×10³": "10.00 → 10.00",
        "calibration error": "2.5 → 3.0",
    }


def chosen(one, weights, epochs):
    """The same models with what was chosen: for each seed another of two weights, and another epoch of 3."""
    energies = []
    for run, weight, epoch in zip(one.energies, weights, epochs, strict=True):
        kept, last = measured(epoch, 0.90, 0.80, 0.75), measured(3, 0.91, 0.7, 0.60 + 0.02 * epoch)
        tried = [{"weight": weight, "kept": kept, "last": last}]
        tried.insert(0, {"weight": 9.0, "kept": measured(1, 0, 0, 0), "last": measured(2, 0, 0, 0)})
        energies.append({**run, "tried": tried, "best": 1})
    return one._replace(energies=energies)


def test_what_was_chosen_stands_beside_the_last_epoch(summary, trained):
    """Three models: of the first nothing was chosen, of the last seeds agree."""
    first, second, third = several(trained, 3)
    models = [first, chosen(second, [0.1, 0.5], [1, 2]), chosen(third, [0.5, 0.5], [2, 2])]
    plain, table = before_and_after(summary, trained), before_and_after(summary, models)
    assert [row[0] for row in table.rows[: len(plain.rows)]] == [row[0] for row in plain.rows]
    assert table.rows[len(plain.rows) :] == [
        ["settings kept", "–", "weight 0.1; weight 0.5", "weight 0.5"],
        ["epoch kept, of those trained", "–", "1 of 3; 2 of 3", "2 of 3"],
        ["accuracy on ID validation, kept / last epoch", "–", "90.0 / 91.0", "90.0 / 91.0"],
        ["AUROC on tuning outliers, kept / last epoch", "–", "80.0 / 70.0", "80.0 / 70.0"],
        ["OSCR on both, kept / last epoch", "–", "75.0 / 63.0", "75.0 / 64.0"],
    ]
    assert chose(models) and not chose(trained)


def test_an_epoch_alone_is_chosen_without_settings(summary, trained):
    one = chosen(trained[0], [0.1, 0.5], [1, 3])
    for run in one.energies:
        del run["tried"][1]["weight"]
    names = [row[0] for row in before_and_after(summary, [one]).rows]
    assert "epoch kept, of those trained" in names and "settings kept" not in names


def test_outliers_that_were_left_out_are_counted(summary, trained):
    (one,) = trained
    counted = one._replace(energies=[{**run, "outliers": {"n": 300, "left_out": 12}} for run in one.energies])
    assert before_and_after(summary, [counted, one]).rows[-1] == [
        "outliers left out",
        "12 of 300",
        "0 of 300",
    ]


@pytest.mark.parametrize("choosing", [False, True])
def test_the_note_explains_the_choice_only_where_there_is_one(choosing):
    said = str(ENVIRONMENT.get_template("notes.j2").module.against(choosing))
    assert ("OSCR" in said) == choosing and "5 % and 95 % of the images" in said


def test_changes_are_differences_in_points(summary, trained):
    table = changes(summary, trained)
    assert table.header == ["detector", "oe_full_start, AUROC", "oe_full_start, FPR95"]
    assert table.rows == [["energy", "+5.0 / +0.0", "-5.0 / -20.0"]]


def test_without_training_there_is_nothing_to_show(summary, tmp_path):
    (tmp_path / "params.yaml").write_text(RUNS.replace("[oe]", "[]"))
    none = read_trained(tmp_path, f"{tmp_path}/params.yaml:runs")
    assert none == [] and before_and_after(summary, none) is None and changes(summary, none) is None


def test_what_a_set_does_not_allow_is_left_out_and_a_missing_file_named(tmp_path):
    (tmp_path / "params.yaml").write_text(RUNS)
    save_json(tmp_path / "oe_full_start-0.json", {"left_out": "needs 2 labelled classes"})
    with pytest.raises(InputError, match="oe_full_start-1.json: no such file; run `dvc repro energy`"):
        read_trained(tmp_path, f"{tmp_path}/params.yaml:runs")
    save_json(tmp_path / "oe_full_start-1.json", {"left_out": "needs 2 labelled classes"})
    assert read_trained(tmp_path, f"{tmp_path}/params.yaml:runs") == []


def test_the_figure_names_every_histogram(trained):
    drawn = figures.energies(panels(trained))
    for name in ("ID before", "ID after", "outliers before", "outliers after", "oe_full_start"):
        assert f">{name}<" in drawn


def several(trained, count):
    """The same training under several names, the last of a start that was not evaluated."""
    one = trained[0]
    return [one._replace(model=f"m{k}", start="start" if k < count - 1 else "encoder") for k in range(count)]


@pytest.fixture(scope="module")
def of_sets():
    """Energies of start, m0 and m1 on two sets: 0.8 and 0.9 before, a tenth of the way to 1 later."""
    rows = [
        {"model": model, "detector": "energy", "seed": seed, "set": name, "auroc": value + gain * (1 - value)}
        for model, gain in (("start", 0.0), ("m0", 0.1), ("m1", 0.2))
        for seed in (0, 1)
        for name, value in (("close", 0.8), ("noise", 0.9))
    ]
    frame = over_seeds(pd.DataFrame(rows), ["auroc"], by="set")
    return SimpleNamespace(by_set=frame, roles={"close": "near", "noise": "far"})


def test_several_models_have_a_table_of_sets(of_sets, trained):
    assert by_set(of_sets, trained) is None
    table = by_set(of_sets, several(trained, 2))
    assert table.header == ["model", "close", "noise"]
    assert table.rows == [["m0", "80.0 → 82.0", "90.0 → 91.0"], ["m1", "– → 84.0", "– → 92.0"]]


def test_many_models_have_a_row_each(summary, trained):
    few, many = (before_and_after(summary, several(trained, count)) for count in (4, 5))
    assert few.header == ["before → after", "m0", "m1", "m2", "m3"]
    assert many.header == ["before → after", *(row[0] for row in few.rows)]
    assert [row[0] for row in many.rows] == ["m0", "m1", "m2", "m3", "m4"]
    assert many.rows[0][1:] == [row[1] for row in few.rows]
