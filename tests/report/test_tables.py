"""Tables: bold, marks and gaps in Markdown, and what is averaged."""

import numpy as np
import pytest

from sslood.core.files import save_json
from sslood.ood.measures.metrics import METRICS as MEASURED
from sslood.report.cells import Code, Figure, Table, markdown
from sslood.report.columns import HEADLINE, METRICS, describe, rising
from sslood.report.frame import accuracies, mistakes
from sslood.report.tables import mistakes as mistakes_table


def test_markdown_by_hand():
    result = Figure(0.934, 0.012, 0.25, float("nan"), "†", "[92.0, 94.1]", best=True)
    table = Table(
        ["model", "detector", "far"], [[Code("m"), "d", result], ["n", "e", "–"]], left=("detector",)
    )
    assert markdown(table).splitlines() == [
        "| model | detector | far |",
        "| :--- | :--- | ---: |",
        "| `m` | d | **93.4 ± 1.2**† [92.0, 94.1] / 25.0 |",
        "| n | e | – |",
    ]


@pytest.mark.parametrize(
    ("auroc", "heat"), [(0.5, 0.0), (1.0, 1.0), (0.0, 1.0), (0.75, 0.0625), (float("nan"), 0.0)]
)
def test_colour_grows_with_the_distance_from_chance(auroc, heat):
    assert Figure(auroc, 0.0, 0.0, 0.0).heat == pytest.approx(heat)


def test_a_class_that_is_called_like_a_border_stays_in_its_cell():
    table = Table(["model", "a|b"], [[Code("m"), "5.0 (c|d)"]])
    assert markdown(table).splitlines()[::2] == [r"| model | a\|b |", r"| `m` | 5.0 (c\|d) |"]


def test_mistakes(tmp_path):
    head = {"accuracy": 0.9, "ece": 0.02, "aurc": 0.012, "eaurc": 0.007, "augrc": 0.01}
    ranking = {"mistakes_auroc": 0.91, "mistakes_fpr95": 0.43}
    for seed, more in ((0, ranking), (1, {})):
        models = {"encoder": {"knn": {"accuracy": 0.8}}, "net": {"head": head | more}}
        save_json(tmp_path / f"{seed}.json", {"models": models})
    rows = mistakes((seed, tmp_path / f"{seed}.json") for seed in (0, 1))
    assert len(rows) == 2 and set(rows["model"]) == {"net"}
    last = markdown(mistakes_table(rows)).splitlines()[-1]
    assert last == "| `net` | 10.0 ± 0.0 | 12.00 ± 0.00 | 7.00 ± 0.00 | 91.0 | 43.0 | 2.0 ± 0.0 |"


def test_an_ensembles_calibration_stands_beside_its_members(tmp_path):
    """The mean of what each member has; a table without ensembles has no column for it."""
    head = {"accuracy": 0.9, "ece": 0.02, "aurc": 0.012, "eaurc": 0.007, "augrc": 0.01}
    save_json(tmp_path / "0.json", {"models": {"net": {"head": head}}})
    own = {"error": 0.1, "ece": 0.17, "aurc": 0.01, "eaurc": 0.005}
    said = [{"accuracy": 0.8, "ece": 0.03}, {"accuracy": 0.9, "ece": 0.06}]
    whole = {"mistakes": {"all": own, "bare": own}, "members": {"all": {"0": said[0], "1": said[1]}}}
    save_json(tmp_path / "e.json", {**whole, "accuracy": {"all": 0.9, "bare": 0.9}})
    rows = mistakes([(0, tmp_path / "0.json")], [tmp_path / "e.json"])
    head_line, _, *lines = markdown(mistakes_table(rows)).splitlines()
    assert head_line.endswith("| calibration error | calibration error of members |")
    assert [line.split("|")[-3:-1] for line in lines] == [
        [" 2.0 ", " – "],
        [" 17.0 ", " 4.5 "],
        [" 17.0 ", " – "],
    ]
    found = accuracies([], [tmp_path / "e.json"]).set_index("model")
    assert found.loc["all", "members"] == pytest.approx(0.85) and np.isnan(found.loc["bare", "members"])
    alone = markdown(mistakes_table(mistakes([(0, tmp_path / "0.json")]))).splitlines()[0]
    assert alone.endswith("| calibration error |")


def test_areas_of_good_classifiers_keep_their_digits(tmp_path):
    """Half a percent of mistakes, well ordered, is an AURC of hundredths of a thousandth."""
    for seed, aurc in enumerate((0.00003, 0.00005)):
        head = {"accuracy": 0.995, "ece": 0.02, "aurc": aurc, "eaurc": aurc / 2, "augrc": aurc}
        save_json(tmp_path / f"{seed}.json", {"models": {"net": {"head": head}}})
    rows = mistakes((seed, tmp_path / f"{seed}.json") for seed in (0, 1))
    assert "| 0.04 ± 0.01 | 0.02 ± 0.01 |" in markdown(mistakes_table(rows))


def test_directions_and_meanings_of_metrics():
    assert tuple(METRICS) == MEASURED
    assert [name for name in METRICS if rising(name)] == [
        name for name in METRICS if name.startswith(("auroc", "aupr"))
    ]
    assert rising("filtered_auroc") and not rising("filtered_fpr95_id")
    assert describe("filtered_auroc") == "auroc without the images that the audit excludes"
    assert describe("auroc_std") == "standard deviation over repeats of auroc" and not describe(
        "auroc_median"
    )
    assert set(HEADLINE) <= set(METRICS)
