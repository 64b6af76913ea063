"""The gallery: order, counts and escaping, from made-up decisions."""

import re

import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.report.gallery import gallery, shown_groups


@pytest.fixture
def rows(tmp_path):
    """Five pictures of distinct p-values; two are OOD."""
    rows = []
    for place, p in enumerate((0.9, 0.01, 0.5, 0.02, 0.3)):
        name = f"<{place}>&.png"
        Image.new("RGB", (10 + place, 10), (place, 0, 0)).save(tmp_path / name)
        rows.append(
            {"path": name, "score": 1 - p, "p_value": p, "is_ood": p < 0.05, "predicted_class": "<c>"}
        )
    return rows


def test_pictures_are_ranked_and_grouped(rows, tmp_path):
    page = gallery(rows, tmp_path, "a & b", {"ID": "<digits>"}, count=5)
    assert re.findall(r'<img alt="&lt;(\d)&gt;&amp;.png"', page) == ["1", "3", "4", "2", "0"]
    assert re.findall(r'<figure class="(ood|id)"', page) == ["ood", "ood", "id", "id", "id"]
    assert "2 of 5 pictures are OOD. All are shown, from the most to the least OOD." in page
    assert "Out-of-distribution <span>2 pictures</span>" in page and "a &amp; b" in page
    assert "<dd>&lt;digits&gt;</dd>" in page and "class &lt;c&gt;" in page and "<script" not in page
    assert gallery(rows, tmp_path, "a & b", {"ID": "<digits>"}, count=5) == page


def test_of_many_pictures_some_are_shown(rows, tmp_path):
    page = gallery(rows, tmp_path, "t", {}, count=3)
    assert re.findall(r"#(\d) ", page) == ["1", "2", "3"]
    assert "3 pictures are shown: 2 of 2 out-of-distribution; 1 of 3 in-distribution, nearest to" in page
    assert "Out-of-distribution <span>2 pictures</span>" in page
    assert "In-distribution, nearest to out-of-distribution <span>1 of 3 pictures</span>" in page
    page = gallery(rows, tmp_path, "t", {}, count=4)
    assert re.findall(r"#(\d) ", page) == ["1", "2", "3", "5"]
    assert "In-distribution, a sample of the rest <span>1 of 2 pictures</span>" in page
    page = gallery(rows, tmp_path, "t", {}, count=1)
    assert re.findall(r"#(\d) ", page) == ["1"] and "In-distribution" not in page
    assert "Out-of-distribution <span>1 of 2 pictures</span>" in page


@pytest.mark.parametrize("flagged", [0, 1, 39, 40, 41, 157, 335])
@pytest.mark.parametrize("count", [1, 2, 40, 334, 335, 500])
def test_all_that_is_called_ood_is_shown_first_then_what_is_nearest_then_a_sample(flagged, count):
    """40 of 157 flagged pictures were shown, since 335 pictures were stepped through evenly."""
    groups = shown_groups([place < flagged for place in range(335)], count)
    shown = [place for group in groups for place in group.places]
    assert len(shown) == len(set(shown)) == min(count, 335) and shown == sorted(shown)
    assert sum(place < flagged for place in shown) == min(flagged, count)
    below = [place for place in shown if place >= flagged]
    assert below[: -(-len(below) // 2)] == list(range(flagged, flagged + -(-len(below) // 2)))
    assert all(group.total >= len(group.places) for group in groups)
    assert sum(group.total for group in groups if "rest" not in group.heading) <= 335


def test_warnings_stand_at_the_head_before_all_facts(rows, tmp_path):
    page = gallery(
        rows,
        tmp_path,
        "t",
        {"ID": "digits"},
        headline="it is <weak>",
        warnings=["it catches <nothing>"],
        count=5,
    )
    alert = page.index('<div class="warning" role="alert">')
    assert (
        page.index("<h1>")
        < alert
        < page.index("It is &lt;weak&gt;.")
        < page.index("it catches &lt;nothing&gt;")
        < page.index("<dl>")
    )
    assert 'role="alert"' not in gallery(rows, tmp_path, "t", {"ID": "digits"}, count=5)


def test_one_group_has_one_heading(rows, tmp_path):
    page = gallery(rows[:1], tmp_path, "t", {}, count=3)
    assert "In-distribution <span>1 picture</span>" in page and "Out-of-distribution" not in page


def test_a_picture_that_is_gone_is_named(rows, tmp_path):
    (tmp_path / rows[2]["path"]).unlink()
    with pytest.raises(InputError, match="<2>&.png"):
        gallery(rows, tmp_path, "t", {}, count=5)
