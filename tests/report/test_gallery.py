"""The gallery: order, counts and escaping, from made-up decisions."""

import re

import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.report.gallery import gallery


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
    assert re.findall(r"#(\d) ", page) == ["1", "3", "5"]
    assert "3 of them are shown" in page and "In-distribution <span>3 pictures</span>" in page


def test_one_group_has_one_heading(rows, tmp_path):
    page = gallery(rows[:1], tmp_path, "t", {}, count=3)
    assert "In-distribution <span>1 picture</span>" in page and "Out-of-distribution" not in page


def test_a_picture_that_is_gone_is_named(rows, tmp_path):
    (tmp_path / rows[2]["path"]).unlink()
    with pytest.raises(InputError, match="<2>&.png"):
        gallery(rows, tmp_path, "t", {}, count=5)
