"""What the table and the figure of a study show of models whose detectors have no column of their own."""

import re

import pytest

from studies.done import Finished, finished
from studies.figure import near_and_far
from studies.page import SHOWN, overview
from studies.plan import Part
from studies.table import BEST, bests

RESULTS = """stage,model,detector,seed,set,role,auroc,fpr95_id,auroc_low,auroc_high,n_id,n_ood
posthoc,m,knn,0,letters,near,0.8,0.5,0.78,0.82,50,60
posthoc,m,vim,0,letters,near,0.7,0.5,0.68,0.72,50,60
ssdk,m,ssdk,0,letters,near,0.99,0.1,0.98,1.0,50,60
ensemble,e,eloc,0,letters,near,0.85,0.4,0.84,0.86,50,60
ensemble,e,mean_msp,0,letters,near,0.75,0.4,0.74,0.76,50,60
"""
ACCURACY = "model,accuracy_knn,accuracy_head,accuracy_ensemble\nm,0.6,0.7,\ne,,,0.8\n"


@pytest.fixture
def found(tmp_path) -> Finished:
    for name, text in (
        ("results.csv", RESULTS),
        ("accuracy.csv", ACCURACY),
        ("origin.json", '{"stages": 1}'),
    ):
        (tmp_path / name).write_text(text)
    part = finished(Part("a"), tmp_path)
    assert part is not None
    return part


def test_an_ensemble_has_an_accuracy_and_a_best_detector(found):
    """The best comes before the columns of single detectors, and one that has seen OOD images is none."""
    table = overview([found])
    assert table is not None
    assert list(map(str, table.header)) == [
        "part", "model", "seeds", "head", "kNN", "best near", "best far", "knn", "ssdk",
    ]  # fmt: skip
    assert [list(map(str, row)) for row in table.rows] == [
        ["a", "m", "1", "70.0", "60.0", "knn 80.0 [78.0, 82.0]", "–", "80.0 / –", "99.0 / –"],
        ["a", "e", "1", "80.0", "–", "eloc 85.0 [84.0, 86.0]", "–", "–", "–"],
    ]


def test_it_is_in_the_figure(found):
    groups = found.rows.groups
    rows = bests(groups)
    assert rows[["model", "detector", "auroc"]].values.tolist() == [["m", BEST, 0.8], ["e", BEST, 0.85]]
    alone, both = (near_and_far(groups, SHOWN), near_and_far(rows, [*SHOWN, BEST]))
    assert not re.search(r"a · e\b", alone) and re.search(r"a · e\b", both)
