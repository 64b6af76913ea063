"""The page of made-up results with known answers."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sslood.core.files import load_json, load_tensors, save_json, save_tensors
from sslood.ood.measures.comparison import Scores
from sslood.ood.measures.metrics import ood_metrics
from sslood.report.evidence import Audit, with_significance
from sslood.report.page import few_shot
from sslood.report.summary import Summary
from sslood.report.tables import glance
from tests.kit.summarised import OOD, written


@pytest.fixture
def run(tmp_path):
    return written(tmp_path)


def test_the_page_is_whole_and_needs_no_network(run, tmp_path):
    run()
    html = (tmp_path / "metrics_report/index.html").read_text()
    assert html.count("<svg") == html.count("</svg>") == 3
    assert not re.search(r'(src|href)="(?!#)', html.replace('xlink:href="#', "").replace('src="data:', ""))
    assert "<script" not in html and "@import" not in html
    drawing = html.split("<svg")[3]  # kNN accuracies, measured in every second epoch, are joined by a line
    assert len(re.findall(r'<path d="M [\d.]+ [\d.]+ \nL [\d.]+ [\d.]+ \n" clip-path', drawing)) == 1
    for word in ("simclr", "eloc", "held", "knn", "</html>"):
        assert word in html


def test_the_page_says_what_is_best_and_which_images_mislead_it(run, tmp_path):
    """The ensemble has the highest AUROC on every set; all others have its scores, so none is worse."""
    run()
    page = (tmp_path / "metrics_report/index.html").read_text()
    glance = page.split("At a glance</h2>")[1].split("</table>")[0]
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", glance)]
    assert cells[:5] == ["near: held", "leaveout_wrn · eloc", "99.0", "1.0", "50.0"]
    assert cells[5] == "simclr · knn, simclr · ssd, scratch · knn and 1 more"
    assert "far: mean of 2" in cells and "scratch · ssdk" not in glance

    found, _ = load_tensors(tmp_path / "scores/ensemble/wrn-margin.safetensors")
    inside, outside = found["leaveout_wrn.eloc.digits"], found["leaveout_wrn.eloc.held"]
    section = page.split("The most misleading images</h2>")[1].split("</table>")[0]
    rows = section.split("<tr>")[1:]
    assert [re.search(r"<th[^>]*>(\w+)", row)[1] for row in rows] == ["digits", *OOD]
    for row, order in ((rows[0], np.argsort(-inside)), (rows[1], np.argsort(outside))):
        assert re.findall(r'alt="\w+ (\d+)"', row) == [str(place) for place in order[:12]]
        pictures = re.findall(r"base64,([^\"]+)", row)
        for text, place in zip(pictures, order, strict=False):
            picture = Image.open(io.BytesIO(base64.b64decode(text)))
            assert picture.size == (4, 4) and picture.getpixel((0, 0)) == place
    shares = [f"{100 * (inside >= outside[place]).mean():.1f}" for place in np.argsort(outside)[:12]]
    assert re.findall(r"<figcaption>([\d.]+)", rows[1]) == shares
    assert rows[1].count('"wrong"') == sum(float(share) > 5 for share in shares)
    assert rows[0].count('"wrong"') == 2  # 5 % of 50 images are 2 whole ones


def test_both_metrics_of_a_cell_show_their_spread_over_seeds(run, tmp_path):
    run()
    page = (tmp_path / "metrics_report/index.html").read_text()
    cells = page.split("Near-OOD: detectors × models</h2>")[1].split("</table>")[0]
    cells = [re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", cell)).strip() for cell in cells.split("<td")]
    assert any(re.search(r"91\.0 ± 1\.4\S* 9\.0 ± 1\.4$", cell) for cell in cells), cells


def test_the_page_and_the_tables_say_where_ssdk_is_ssd(run, tmp_path):
    run()
    assert "known images" not in (tmp_path / "metrics_report/index.html").read_text()
    path = tmp_path / "results/ssdk/0.json"
    found = load_json(path)
    for name, held, count in (("held", 0.7, 2), ("noise", 0.79, 0), ("blobs", 0.9, 0)):
        values = {"held_out": held, "held_out_ssd": 0.8, "fallbacks": count, "repeats": 5}
        found["models"]["simclr"]["ssdk"][name] |= values
    save_json(path, found)
    run()
    for file in ("metrics_report/index.html", "metrics/per_set.md"):
        text = (tmp_path / file).read_text()
        assert (
            "ssdk is ssd itself in 2 of 15 repeats, where ssd is clearly better (simclr on held, 2)" in text
        )
        assert "is below ssd, though not clearly, for simclr on noise." in text


def test_images_that_are_missing_or_others_are_named(run, tmp_path):
    path = tmp_path / "sets/noise.safetensors"
    images = np.zeros((7, 1, 4, 4), np.uint8)
    path.unlink()
    assert "noise.safetensors: no such file" in run().stderr
    save_tensors(path, {"test.images": images}, kind="set", metadata={})
    assert "'noise' has 7 test images for 50 scores" in run().stderr


def test_what_is_said_of_ssdk_is_said_of_each_of_its_rows():
    values = {"model": "m", "set": "s", "repeats": 5, "held_out_ssd": 0.8}
    rows = [
        {**values, "detector": "ssdk", "fallbacks": 0, "held_out": 0.9},
        {**values, "detector": "ssdk_1", "fallbacks": 5, "held_out": 0.5},
        {**values, "detector": "ssdk_ratio", "fallbacks": 0, "held_out": 0.7},
    ]
    said = few_shot(pd.DataFrame(rows))
    assert said == (
        " On known images that are left out, ssdk_1 is ssd itself in 5 of 5 repeats, where ssd is clearly "
        "better (m on s, 5). On known images that are left out, ssdk_ratio is below ssd, though not clearly, "
        "for m on s."
    )


def test_a_best_mean_that_is_worse_on_a_set_is_no_lack_of_images():
    """a is best by far on s1 and worse on s2; each is best somewhere, none is on both."""
    rng = np.random.default_rng(0)
    draw = lambda shift: rng.normal(shift, 1.0, 500)  # noqa: E731
    scores = {(d, "id"): draw(0.0) for d in "ab"}
    scores |= {("a", "s1"): draw(3.0), ("a", "s2"): draw(0.5), ("b", "s1"): draw(1.5), ("b", "s2"): draw(1.2)}

    class Scored:
        id = "id"

        def read(self, row):
            return Scores(scores[row["detector"], "id"], scores[row["detector"], row["set"]]), np.arange(500)

    rows = pd.DataFrame(
        {"file": "0", "stage": "posthoc", "model": "m", "detector": d, "seed": 0, "set": s, "role": "far",
         **ood_metrics(scores[d, "id"], scores[d, s])}
        for s in ("s1", "s2") for d in "ab"
    )  # fmt: skip
    found = {name: {"control_auroc": 0.5} for name in ("s1", "s2")} | {"id": {}}
    audit = Audit(None, "id", found, dict.fromkeys(found, np.empty(0)))
    summary = Summary(
        "id", with_significance(rows, Scored()), None, None, audit, 0.01, dict.fromkeys(("s1", "s2"), "far"),
        None, None, 0.05, [], [],
    )  # fmt: skip
    assert [row[-1] for row in glance(summary).rows] == ["no row on every set", "none", "none"]
