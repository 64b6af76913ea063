"""What the table and the figure of a study show of models whose detectors have no column of their own."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from studies.done import Finished, finished
from studies.figure import near_and_far
from studies.page import SHOWN, overview, write_pages
from studies.plan import Part, Study
from studies.table import BEST, bests
from studies.totals import hours, sizes, widths

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


def test_the_legend_names_what_has_a_mark_and_fits_into_the_figure():
    """One role makes a narrow figure."""
    names = ["msp", "energy", "knn", "mahalanobis", "ssd", "ssdk", "auto", BEST]
    row = {"part": "a", "model": "m", "role": "far", "auroc": 0.8, "low": 0.7, "high": 0.9}
    drawing = near_and_far(
        pd.DataFrame([row | {"detector": name} for name in names if name != "ssdk"]), names
    )
    width = float(drawing.partition('width="')[2].partition("pt")[0])
    texts = {text: float(x) for x, text in re.findall(r'<text[^>]* x="(-?[\d.]+)"[^>]*>([^<]+)', drawing)}
    assert "ssdk" not in texts
    assert all(20 < texts[name] < width - 30 for name in names if name != "ssdk")


STAGES = "stage,seconds,threads,digest\ndownload@a,36,1,d\ntrain@0,3600,2,{}\n"


def part_of(folder: Path, name: str, origin: str, stages: str = "", results: str = RESULTS) -> Finished:
    place = folder / name
    place.mkdir()
    (place / "results.csv").write_text(results)
    (place / "origin.json").write_text(origin)
    if stages:
        (place / "stages.csv").write_text(stages)
    part = finished(Part(name), place)
    assert part is not None
    return part


def test_hours_count_each_stage_once(tmp_path):
    took = '{"hours": 2.0, "core_hours": 3.0}'
    first, second = (part_of(tmp_path, name, took, STAGES.format(name)) for name in "ab")
    assert hours([first, second]) == (
        "Each stage counted once, this took 2.0 hours of stages (4.0 hours of cores)."
    )
    old = part_of(tmp_path, "c", took)
    assert hours([first, old]) == (
        "Each stage counted once, `a` took 1.0 hours of stages (2.0 hours of cores). Of the other parts it "
        "was not recorded which stages they share, and each counts in full: 2.0 hours of stages (3.0 hours "
        "of cores). So all took at most 3.0 hours of stages (5.0 hours of cores)."
    )
    assert hours([old]).startswith(
        "At most 2.0 hours of stages (3.0 hours of cores): stages that parts share"
    )
    assert hours([]) == ""
    for seconds, said in (
        (300, "5.0 minutes of stages (10.0 minutes of cores)"),
        (3, "3.0 seconds of stages (6.0 seconds of cores)"),
    ):
        stages = f"stage,seconds,threads,digest\ntrain@0,{seconds},2,{seconds}\n"
        short = part_of(tmp_path, f"short{seconds}", took, stages)
        assert hours([short]) == f"Each stage counted once, this took {said}."
    assert hours([first, second, old], ["a", "c"]).endswith(
        " The parts of `core` (`a`, `c`) took at most 3.0 hours of stages (5.0 hours of cores)."
    )
    for done, core in (([first, old], ["a", "c"]), ([first, old], ["a", "b"]), ([first], ["b"])):
        assert "core`" not in hours(done, core), "all of it, not all done, and none"


def test_the_page_says_how_many_images_there_are_and_how_wide_intervals_get(tmp_path, found):
    """Those that ssdk knows are not among its test images, so its numbers are not the group's."""
    far = RESULTS.replace("near", "far").replace(",60", ",1200")
    other = part_of(tmp_path, "b", '{"stages": 1}', results=far)
    again = part_of(tmp_path, "c", '{"stages": 1}')
    assert sizes([other, found, again]) == (
        "Test images: n = 50 ID, 60 near (1 set); in `b` 50 ID, 1,200 far (1 set)."
    )
    assert widths([found, other], SHOWN) == (
        "The 95 % intervals of the other columns are at most ± 2.0 near and ± 2.0 far."
    )
    assert sizes([]) == widths([], SHOWN) == ""


def test_the_page_links_published_figures_and_explains_what_has_no_interval(tmp_path):
    rows = RESULTS.replace("0.99,0.1,0.98,1.0", "0.99,0.1,,")
    origin = '{"stages": 1, "hours": 1, "core_hours": 1, "revision": [], "hardware": [], "absent": {}}'
    part = part_of(tmp_path, "a", origin, results=rows)
    (tmp_path / "a/published.md").write_text("x")
    done = [finished(part.part, tmp_path / "a"), part_of(tmp_path, "b", origin)]
    write_pages(Study("T", parts=(Part("a"), Part("b"))), {"a": {}, "b": {}}, done, tmp_path)
    markdown, html = ((tmp_path / name).read_text() for name in ("README.md", "index.html"))
    assert "Beside published figures: [a](a/published.md)." in markdown and "(b/published.md)" not in markdown
    assert '<a href="a/published.md">a</a>' in html and "docs/findings.md" in html
    assert "Rows of `ssdk` have none" in markdown and "Rows of ssdk have none" in html


def test_both_pages_say_first_which_parts_are_of_a_tiny_run(tmp_path):
    origin = {"stages": 1, "hours": 1, "core_hours": 1, "revision": [], "hardware": [], "absent": {}}
    tiny = part_of(tmp_path, "a", json.dumps({**origin, "tiny": True}))
    full = part_of(tmp_path, "b", json.dumps(origin))
    study = Study("T", name="cifar10", parts=(Part("a"), Part("b")))

    def pages(done, **changes) -> list[str]:
        write_pages(replace(study, **changes), {"a": {}, "b": {}}, done, tmp_path)
        return [(tmp_path / name).read_text() for name in ("README.md", "index.html")]

    for page in pages([tiny], is_tiny=True):
        top = page.partition("Models and detectors")[0]
        assert "This was a tiny run" in top and "its numbers mean nothing" in top
        assert "python -m studies.run cifar10 --tiny" in top
    markdown, html = pages([tiny, full])
    assert "The results of `a` are of a tiny run" in markdown and "The results of a are of a tiny run" in html
    assert "python -m studies.run cifar10`" in markdown
    assert not any("tiny" in page for page in pages([full]))
