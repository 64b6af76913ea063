"""The gallery: order, counts and escaping, from made-up decisions."""

import csv
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.report.gallery import Extra, HeatLayer, NearestPicture, gallery, shown_groups, shown_rows
from sslood.report.pictures import Thumbnail


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
    assert "<dd>&lt;digits&gt;</dd>" in page and "class &lt;c&gt;" in page
    assert "<c>" not in page and "<digits>" not in page and "<0>" not in page
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
    page = gallery(rows, tmp_path, "t", {"ID": "digits"}, notes=["only <few> images"], count=5)
    assert 'role="alert"' not in page and "<li>only &lt;few&gt; images</li>" in page


def test_boxes_are_counted_and_named_as_boxes(rows, tmp_path):
    boxes = [
        row | {"file": tmp_path / f"{row['path']}#xywh=0,0,2,{place + 1}"} for place, row in enumerate(rows)
    ]
    page = gallery(boxes[:1], tmp_path, "t", {}, count=5)
    path = boxes[0]["path"].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert "1 box</span>" in page and f"{path}#xywh=0,0,2,1</small>" in page
    assert f"of {len(boxes)} boxes are OOD" in gallery(boxes, tmp_path, "t", {}, count=5)
    assert f"of {len(rows)} pictures are OOD" in gallery(rows, tmp_path, "t", {}, count=5)


def test_one_group_has_one_heading(rows, tmp_path):
    page = gallery(rows[:1], tmp_path, "t", {}, count=3)
    assert "In-distribution <span>1 picture</span>" in page and "Out-of-distribution" not in page


def test_a_picture_that_is_gone_is_named(rows, tmp_path):
    (tmp_path / rows[2]["path"]).unlink()
    with pytest.raises(InputError, match="<2>&.png"):
        gallery(rows, tmp_path, "t", {}, count=5)


def test_the_shown_rows_are_those_of_the_page(rows, tmp_path):
    page = gallery(rows, tmp_path, "t", {}, count=4)
    names = [row["path"].replace("<", "&lt;").replace(">", "&gt;").replace("&.", "&amp;.") for row in
             shown_rows(rows, 4)]  # fmt: skip
    assert re.findall(r'<img alt="([^"]+)"', page) == names


def test_heat_and_neighbours_are_escaped_and_can_be_absent(rows, tmp_path):
    thumbnail = Thumbnail("data:image/png;base64,AA", True)

    def extras(row, picture):
        assert picture.size == (10 + int(row["path"][1]), 10)
        if row["p_value"] == 0.5:
            return Extra()
        heat = HeatLayer("data:image/png;base64,BB", -0.1, 0, 1.2, 1, 1.234)
        return Extra(heat, [NearestPicture("<n>", 0.5), NearestPicture("m", 0.25, thumbnail, "a%20b.png")])

    page = gallery(rows, tmp_path, "t", {}, count=5, extras=extras)
    assert page.count('src="data:image/png;base64,BB"') == 4 == page.count("hottest 1.23")
    assert 'style="left:-10.00%;top:0.00%;width:120.00%;height:100.00%"' in page
    assert '<small title="&lt;n&gt;, cosine 0.500">&lt;n&gt;</small>' in page and "<n>" not in page
    assert '<a href="a%20b.png" target="_blank" title="m, cosine 0.250"><img class="pixelated"' in page
    assert 'id="heated"' in page and 'id="heated"' not in gallery(rows, tmp_path, "t", {}, count=5)


DRIVE = """
<script>
const seen = (selector = "figure:not([hidden])") =>
  [...document.querySelectorAll(selector)].map((one) => one.dataset.p);
const set = (id, value, kind) => { at(id).value = value; at(id).dispatchEvent(new Event(kind)); };
const log = { start: [at("line").textContent, seen(".ood"), slider.value] };
set("kind", "id", "change"); log.id = seen();
set("kind", "all", "change"); set("filter", " <3>", "input"); log.filter = seen();
at("mark").click(); set("filter", "", "input"); set("kind", "marked", "change"); log.marked = seen();
set("kind", "all", "change"); set("threshold", 1000 * (1 - Math.log10(0.31) / lowest), "input");
log.moved = [seen(".ood"), at("outcome").textContent, document.querySelectorAll("strong")[2].textContent];
cards[2].querySelector(".mark").click();
let made; URL.createObjectURL = (blob) => { made = blob; return "#saved"; };
at("save").click(); at("reset").click(); log.reset = [seen(".ood"), at("line").textContent];
log.seen = at("seen").textContent;
made.text().then((text) => {
  log.table = text; document.body.replaceChildren(); document.title = JSON.stringify(log);
});
</script>
"""


def in_chromium(page) -> dict:
    """Return what the script of DRIVE leaves in the title of a page that Chromium opened."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=2000",
        "--dump-dom",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60)
    title = re.search("<title>(.*)</title>", done.stdout, re.DOTALL)[1]
    for code, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        title = title.replace(code, sign)
    return json.loads(title)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_filters_moves_the_threshold_and_saves_the_marked_ones(rows, tmp_path):
    rows[3]["path"], rows[4]["path"] = '=<3>,"&.png', "<4>&.png"
    rows = [row | {"file": tmp_path / row["path"], "x0": str(place), "=note": "a,b"}
            for place, row in enumerate(rows)]  # fmt: skip
    Image.new("RGB", (3, 3)).save(tmp_path / rows[3]["path"])
    page = tmp_path / "page.html"
    page.write_text(gallery(rows, tmp_path, "t", {}, count=5).replace("</body>", f"{DRIVE}</body>"))
    log = in_chromium(page)
    assert log["start"][:2] == ["as decided", ["0.01", "0.02"]]
    assert log["id"] == ["0.3", "0.5", "0.9"] and log["filter"] == ["0.02"] == log["marked"]
    assert log["moved"][0] == ["0.01", "0.02", "0.3"] and log["moved"][2] == "OOD"
    assert "3 of 5 pictures would be OOD (3 of those shown)" in log["moved"][1]
    assert log["reset"] == [["0.01", "0.02"], "as decided"] and log["seen"] == "5 pictures shown, 2 marked"
    table = [*csv.DictReader(log["table"].splitlines())]
    assert [list(row.values()) for row in table] == [
        ['%3D<3>,"&.png', "0.98", "0.02", "true", "<c>", "3", "a,b"],
        ["<4>&.png", "0.7", "0.3", "true", "<c>", "4", "a,b"],
    ]
    # what a list says, without which two boxes of one picture are the same line
    assert [*table[0]] == ["path", "score", "p_value", "is_ood", "predicted_class", "x0", "%3Dnote"]
