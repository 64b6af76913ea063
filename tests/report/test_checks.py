"""Damaged files of results are named, with the key and what to do; none becomes a gap or a record."""

import copy
import json

import pytest

from sslood.core.errors import InputError
from sslood.core.files import load_json, save_json, save_text
from sslood.report.checks import check_energies, check_evaluation
from sslood.report.page import read_curves
from tests.kit.summarised import OOD, metrics, written
from tests.report.test_outliers import energies, measured


@pytest.fixture
def run(tmp_path):
    return written(tmp_path)


def put(content, key, value):
    """Put a value at a dotted key, or take the key out for None."""
    *way, last = key.split(".")
    for name in way:
        content = content[int(name) if name.isdecimal() and isinstance(content, list) else name]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("posthoc/1", "models.simclr.knn.held.auroc", 1.9, "must be a number from 0 to 1, found 1.9"),
        ("posthoc/1", "models.simclr.knn.held.auroc", "0.9", "must be a number from 0 to 1, found '0.9'"),
        ("posthoc/1", "models.simclr.knn.held.auroc", float("nan"), "a number from 0 to 1, found nan"),
        ("posthoc/1", "models.simclr.knn.held.auroc", True, "must be a number from 0 to 1, found True"),
        ("ssd/0", "models.simclr.ssd.noise.fpr95_id", None, "is missing"),
        ("ssd/0", "models.simclr.ssd.noise.n_ood", 0, "must be a number of at least 1, found 0"),
        ("ssd/0", "models.simclr.ssd.noise.n_ood", 9.5, "must be a whole number, found 9.5"),
        ("ssd/0", "models.simclr.ssd.noise", [0.5], "must be a mapping, found [0.5]"),
        ("ssdk/0", "models", None, "is missing"),
        ("ssdk/0", "models.simclr", 7, "must be a mapping, found 7"),
        ("ssdk/0", "left_out", [{"model": "m"}], "left_out.0.detector is missing"),
        ("probe/0", "models.simclr.knn.accuracy", None, "is missing"),
        ("probe/0", "models.simclr.knn.accuracy", 91.0, "must be a number from 0 to 1, found 91.0"),
        ("ensemble/wrn-margin", "accuracy.leaveout_wrn", "x", "must be a number from 0 to 1, found 'x'"),
        (
            "posthoc/0",
            "chosen",
            {"simclr.auto.members": {"value": "knn"}},
            "value must be a list, found 'knn'",
        ),
    ],
)
def test_what_is_missing_or_is_no_result_is_named(run, tmp_path, file, key, value, said):
    path = tmp_path / f"results/{file}.json"
    content = load_json(path)
    put(content, key, value)
    path.write_text(json.dumps(content))
    found = run()
    assert found.exit_code == 1 and said in found.stderr, found.output
    assert f"{file}.json: {key}" in found.stderr
    stage = file.split("/")[0]
    assert f"delete the file and run `dvc repro {stage}` again" in found.stderr


@pytest.mark.parametrize("damage", [b"", b'{"models": {"simclr"', b"\xff\xfe{}", b"[1]", b"null"])
@pytest.mark.parametrize("file", ["posthoc/1", "probe/0", "ensemble/wrn-margin"])
def test_a_file_that_is_cut_off_or_something_else_is_named(run, tmp_path, file, damage):
    (tmp_path / f"results/{file}.json").write_bytes(damage)
    found = run()
    assert found.exit_code == 1 and f"{file}.json: " in found.stderr and "dvc repro" in found.stderr


POINT = {"temperature": 1.0, "epsilon": 0.0, "target": "predicted", "auroc": {"held": 0.9}}
SWEEP = {
    "chosen": {"temperature": 1.0, "epsilon": 0.0, "target": "predicted"},
    "points": [POINT],
    "disagreement": {"digits": {"variation_ratio": 0.1}},
}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("models.m.eloc_2", None, "models.m.eloc_2 is missing"),
        ("sweep.m.points.0.auroc", {"svhn": 0.5}, "models.m.eloc.svhn is missing"),
        ("sweep.m.points.0.auroc", {"held": 2}, "sweep.m.points.0.auroc.held must be a number from 0 to 1"),
        ("sweep.m.chosen.target", 3, "sweep.m.chosen.target must be a text, found 3"),
        ("sweep.m.disagreement.digits", {}, "sweep.m.disagreement.digits.variation_ratio is missing"),
        ("members", {"m": {"0": {"accuracy": 0.9}}}, "members.m.0.ece is missing"),
        ("mistakes", {"m": {"aurc": -1}}, "mistakes.m.aurc must be a number from 0 to 1, found -1"),
    ],
)
def test_what_an_ensemble_adds_is_checked(tmp_path, key, value, said):
    rows = {name: {own: metrics(0.9) for own in OOD} for name in ("eloc", "eloc_1", "eloc_2", "eloc_3")}
    content = {"models": {"m": rows}, "sweep": {"m": copy.deepcopy(SWEEP)}, "mistakes": {"m": {"ece": None}}}
    path = tmp_path / "ensemble/a.json"
    save_json(path, content)
    check_evaluation(path)
    put(content, key, value)
    save_json(path, content)
    with pytest.raises(InputError, match="run `dvc repro ensemble` again") as found:
        check_evaluation(path)
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("before.validation.mean", None, "before.validation.mean is missing"),
        ("after.auxiliary.quantiles", [1.0], "after.auxiliary.quantiles must hold 5 numbers, found 1"),
        ("after.auxiliary.counts", [1, "2"], "after.auxiliary.counts.1 must be a number of at least 0"),
        ("levels", [0.05, 0.25, 0.4, 0.75, 0.95], "levels lacks 0.5"),
        ("edges", 3, "edges must be a list, found 3"),
        ("outliers.n", "many", "outliers.n must be a number of at least 0, found 'many'"),
        ("best", 1, "best must be a number from 0 to 0, found 1"),
        ("best", 0.0, "best must be a whole number, found 0.0"),
        ("tried.0.kept.validation_oscr", None, "tried.0.kept.validation_oscr is missing"),
    ],
)
def test_energies_are_checked(tmp_path, key, value, said):
    tried = [{"kept": measured(2, 0.9, 0.8, 0.75), "last": measured(3, 0.9, 0.8, 0.7)}]
    content = {**energies(0), "tried": tried, "best": 0}
    path = tmp_path / "energies/a.json"
    save_json(path, content)
    check_energies(path)
    put(content, key, value)
    save_json(path, content)
    with pytest.raises(InputError, match="run `dvc repro energy` again") as found:
        check_energies(path)
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no table of training curves"),
        (b"\xff\xfe\x00", "no table of training curves"),
        (b'epoch,loss\n1,2\n"3', "no table of training curves"),
        (b"loss\n1\n", "has no column 'epoch'"),
        (b"epoch,loss\n1,2.0\n2,1.x\n", "column 'loss' must hold numbers alone"),
    ],
)
def test_damaged_curves_are_named(tmp_path, content, said):
    (tmp_path / "m-0.csv").write_bytes(content)
    with pytest.raises(InputError, match="m-0.csv: ") as found:
        read_curves(tmp_path, ["m"], 0)
    assert said in str(found.value) and "dvc repro" in str(found.value)
    save_text(tmp_path / "m-0.csv", "epoch,loss,note\n1,2.0,fine\n")
    assert read_curves(tmp_path, ["m"], 0)["m"]["loss"] == [2.0]


def test_curves_of_a_model_that_was_left_out_are_none(tmp_path):
    (tmp_path / "m-0.csv").write_text("epoch,loss\n")
    assert read_curves(tmp_path, ["m"], 0) == {}
