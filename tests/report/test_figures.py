"""Figures: what is drawn stands where the numbers say, for scores of any range."""

import re

import numpy as np
import pytest

from sslood.report.figures import curves, distributions, roc_panels
from sslood.report.levels import Level, levels


def shares(svg: str) -> list[str]:
    return re.findall(r">(\d+) %</text>", svg)


def test_distributions_say_how_much_of_a_set_is_flagged():
    inside = np.arange(100.0)
    panels = {"a · b": {"id": inside, "low": inside[:50], "half": np.repeat([10.0, 95.0], 20)}}
    # threshold 95 (of 100 values 95 lie below): above it 96 … 99
    assert shares(distributions(panels, "id")) == ["4", "0", "0"]
    panels["a · b"]["half"] = np.repeat([10.0, 96.0], 20)
    assert shares(distributions(panels, "id")) == ["4", "0", "50"]


def test_a_title_wider_than_its_panel_has_two_lines():
    scores = {"id": np.arange(9.0), "far": np.arange(9.0)}
    long = "energy_joint_full_classifier_scratch"
    drawing = distributions({f"{long} · gradnorm": scores, "m · d": scores}, "id")
    assert {">m · d<", f">{long}<", ">gradnorm<"} <= set(re.findall(r">[^<>]+<", drawing))


@pytest.mark.parametrize(
    "values",
    [np.zeros(5), np.array([0.0, 1e-300, 1e300]), np.array([-np.inf, 0.0, np.inf]), np.full(4, np.inf)],
    ids=["constant", "huge", "infinite", "only infinite"],
)
def test_any_scores_can_be_drawn(values):
    panels = {"m · d": {"id": np.array([0.0, 1.0, 2.0]), "ood": values}}
    for draw in (distributions, roc_panels):
        drawing = draw(panels, "id")
        assert "nan" not in drawing.lower() and "inf" not in drawing.lower()
        assert draw(panels, "id") == drawing
    assert distributions({"m · d": {"id": values, "ood": values}}, "id")


def test_the_axis_of_scores_is_labelled_in_powers_of_ten():
    inside = np.linspace(-1, 1, 101)  # median 0, interquartile range 1
    drawing = distributions({"m · d": {"id": inside, "far": inside * 1e4}}, "id")
    labels = re.findall(r">([^<]+)</text>", drawing)
    assert labels[:11] == ["−1e4", "−1e3", "−100", "−10", "−1", "0", "1", "10", "100", "1e3", "1e4"]


def test_a_run_has_one_colour_in_all_panels_and_one_legend():
    nan = float("nan")
    runs = {
        "first": {"epoch": [1, 2], "loss": [2.0, 1.0]},
        "second": {"epoch": [1, 2], "loss": [3.0, 2.0], "knn": [nan, 0.5]},
        "third": {"epoch": [1], "knn": [0.4]},
    }
    drawing = curves(runs, {"loss": "loss", "knn": "kNN accuracy"})
    assert [drawing.count(f">{name}</text>") for name in runs] == [1, 1, 1]
    lines = re.findall(r"fill: none; stroke: (#[0-9a-f]{6}); stroke-linecap", drawing)
    first, second, third = "#000000", "#e69f00", "#56b4e9"
    # two lines in the first panel, two in the second, three in the legend
    assert lines == [first, second, second, third, first, second, third]
    assert ">kNN accuracy</text>" in drawing


def test_numbers_are_short_and_ids_belong_to_one_figure():
    panels = {"m · d": {"id": np.linspace(0, 1, 101), "ood": np.linspace(0.3, 2, 77)}}
    first, second = distributions(panels, "id"), roc_panels(panels, "id")
    for drawing in (first, second):
        inside = "".join(re.findall(r"<[^>]*>", drawing))
        assert not re.search(r"\d\.\d{3}", inside)
        ids = re.findall(r'\bid="([^"]+)"', drawing)
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing))
        assert len(ids) == len(set(ids)) and used <= set(ids)
    assert not set(re.findall(r'\bid="([^"]+)"', first)) & set(re.findall(r'\bid="([^"]+)"', second))


def test_noise_of_another_processor_changes_no_byte():
    random = np.random.default_rng(0)
    panels = {"m · d": {"id": random.normal(size=300), "ood": random.normal(size=200) + 2}}
    other = {"m · d": {name: values * (1 + 1e-12) for name, values in panels["m · d"].items()}}
    for draw in (distributions, roc_panels):
        assert draw(panels, "id") == draw(other, "id")


def test_the_panels_of_a_column_have_their_levels_in_one_order():
    """They share an axis, and its labels are those of the last panel."""
    named = lambda **means: [Level(name, mean) for name, mean in means.items()]  # noqa: E731
    panels = {
        "near": {"few": named(h=0.1, z=0.3), "all": named(h=0.1, plain=0.2, z=0.3)},
        "accuracy": {"kNN": named(h=0.7, plain=0.8, z=0.9)},
    }
    drawing = levels({"": panels}, "objective", {"accuracy": "accuracy"})
    texts = re.findall(r">(h|plain|z)</text>", drawing)
    assert texts == ["h", "plain", "z"]
    dots = re.findall(r'<use [^>]* x="([\d.]+)" [^>]*style="(?:fill: #\w+; )?stroke: #(\w+)"/>', drawing)
    across = {colour: [float(x) for x, own in dots if own == colour] for colour in ("000000", "e69f00")}
    h, z = across["000000"][:2]  # of the line `few`, in the first panel
    places = across["e69f00"][:3]
    # beside those of the other line at the same level, by less than half a level
    assert abs(h - places[0]) < 20 < abs(places[1] - places[0]) / 2 and abs(z - places[2]) < 20
