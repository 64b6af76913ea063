"""Boxes of annotations and detectors through the commands, and what they say of a whole picture."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import box_convert

from sslood.commands import boxes
from sslood.core.errors import InputError
from sslood.data.sets.images import read_image
from sslood.data.sets.lists import read_list
from sslood.deploy.boxes.by_image import by_image, most_boxes, save_by_image
from sslood.deploy.boxes.formats import Boxed, read_boxes, save_boxes
from sslood.ood.measures.conformal import conformal_threshold
from tests.kit.small import call

XYXY = torch.tensor([[3.0, 4.0, 23.0, 20.0], [10.5, 1.0, 40.0, 30.0]])


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)).save(
            tmp_path / "in" / name
        )
    return tmp_path / "in"


def coco(folder):
    bboxes = box_convert(XYXY, "xyxy", "xywh").tolist()
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "deep/b.jpg"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": bboxes[0]},
            {"image_id": 9, "category_id": 3, "bbox": bboxes[1]},
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def coco_results(folder):
    bboxes = box_convert(XYXY, "xyxy", "xywh").tolist()
    names = zip(("a", "b"), bboxes, strict=True)
    results = [{"image_id": name, "category_id": "cat", "bbox": bbox, "score": 0.5} for name, bbox in names]
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "results.json"


def voc(folder):
    (folder / "voc").mkdir()
    for name, (x0, y0, x1, y1) in zip(("a.png", "b.jpg"), XYXY.tolist(), strict=True):
        edges = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
        inside = "".join(f"<{key}>{value}</{key}>" for key, value in edges.items())
        box = f"<object><name>cat</name><bndbox>{inside}</bndbox></object>"
        text = f"<annotation><filename>{name}</filename>{box}</annotation>"
        (folder / "voc" / f"{name}.xml").write_text(text)
    return folder / "voc"


def yolo(folder):
    shares = box_convert(XYXY, "xyxy", "cxcywh") / torch.tensor([40, 30, 40, 30])
    (folder / "yolo" / "deep").mkdir(parents=True)
    (folder / "yolo" / "classes.txt").write_text("dog\ncat\n")
    for name, row in zip(("a", "deep/b"), shares.tolist(), strict=True):
        (folder / "yolo" / f"{name}.txt").write_text(f"1 {' '.join(map(str, row))} 0.5\n\n")
    (folder / "yolo" / "empty.txt").write_text("")
    return folder / "yolo"


@pytest.mark.parametrize("write", [coco, coco_results, voc, yolo])
def test_all_formats_give_the_same_boxes(tmp_path, pictures, write):
    found = read_boxes(write(tmp_path), pictures)
    np.testing.assert_allclose([box.edges for box in found], XYXY, atol=1e-5)
    assert [box.picture for box in found] == [f"{pictures}/a.png", f"{pictures}/deep/b.jpg"]
    assert {box.label for box in found} == {"cat"}


def test_the_whole_picture_in_vocs_numbers(tmp_path, pictures):
    """VOC counts pixels from 1: a box of a whole picture of 40 x 30 is 1, 1, 40, 30."""
    inside = "<xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax>"
    (tmp_path / "voc").mkdir()
    text = f"<annotation><object><bndbox>{inside}</bndbox></object></annotation>"
    (tmp_path / "voc" / "a.xml").write_text(text)
    (found,) = read_boxes(tmp_path / "voc", pictures)
    assert found.edges == (0, 0, 40, 30)


def test_two_pictures_of_one_name_are_not_taken_for_the_one_that_is_there(tmp_path, pictures):
    """A folder that an annotation names may lie elsewhere here, but not two of them in one."""
    images = [{"id": 1, "file_name": "train/b.jpg"}, {"id": 2, "file_name": "test/b.jpg"}]
    boxed = [{"image_id": 1, "bbox": [0, 0, 9, 9]}] * 2
    for annotations, other in ((boxed, False), ([*boxed, {"image_id": 2, "bbox": [0, 0, 9, 9]}], True)):
        content = {"images": images, "annotations": annotations}
        (tmp_path / "x.json").write_text(json.dumps(content))
        if not other:
            assert {box.picture for box in read_boxes(tmp_path / "x.json", pictures)} == {
                f"{pictures}/deep/b.jpg"
            }
            continue
        with pytest.raises(InputError, match="'train/b.jpg' and 'test/b.jpg' would both be .*deep/b.jpg"):
            read_boxes(tmp_path / "x.json", pictures)


def test_torchvisions_detectors(tmp_path, pictures):
    """What the docs show: boxes of an (untrained) detector become a list, whose rows lie in their picture."""
    torch.manual_seed(0)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=5, min_size=64
    ).eval()
    with torch.inference_mode():
        (result,) = network([torch.rand(3, 30, 40)])
    assert len(result["boxes"])
    values = zip(result["boxes"].tolist(), result["scores"].tolist(), strict=True)
    save_boxes(
        tmp_path / "b.csv", [Boxed(f"{pictures}/a.png", tuple(edges), "", sure) for edges, sure in values]
    )
    sizes = [read_image(path).size for path in read_list(tmp_path / "b.csv").paths]
    widths = (result["boxes"][:, 2].ceil() - result["boxes"][:, 0].floor()).clamp(max=40).tolist()
    assert [size[0] for size in sizes] == widths


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.json", "{", "no COCO file"),
        ("x.json", '{"images": []}', "no COCO file (KeyError: 'annotations')"),
        ("x.json", '{"images": [], "annotations": []}', "holds no box"),
        ("x.json", '{"images": [], "annotations": null}', "no COCO file (TypeError: "),
        (
            "x.json",
            '[{"image_id": "a", "bbox": [1, 2, 3, 4], "category_id": [1]}]',
            "result 0: lacks a bbox of four numbers or its picture, or its class is none",
        ),
        ("x.json", '{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}', "annotation 0"),
        ("x.json", '[{"image_id": "a", "bbox": [1, 2, 0, 4]}]', "result 0: the box (1, 2, 1, 6) has no area"),
        ("x.json", '[{"image_id": "a", "bbox": [1, 2, 3]}]', "result 0: lacks a bbox of four numbers"),
        (
            "x.json",
            f'[{{"image_id": "a", "bbox": [{"9" * 400}, 2, 3, 4]}}]',
            "result 0: lacks a bbox of four numbers",
        ),
        (
            "x.json",
            '[{"image_id": "a", "bbox": [NaN, 2, 3, 4]}]',
            "result 0: the box (nan, 2, nan, 6) has a number that is not finite; correct or remove it",
        ),
        (
            "x.json",
            '[{"image_id": "a", "bbox": [1, 2, 3, 4], "score": "high"}]',
            "result 0: its confidence 'high' is no finite number; correct or remove it",
        ),
        (
            "x.json",
            '[{"image_id": "a", "bbox": [1, 2, 3, 4], "score": NaN}]',
            "result 0: its confidence nan is no finite number; correct or remove it",
        ),
        (
            "x.json",
            f'[{{"image_id": "a", "bbox": [1, 2, 3, 4], "score": {"9" * 400}}}]',
            "is no finite number; correct or remove it",
        ),
        ("x.json", '[{"image_id": "no", "bbox": [1, 2, 3, 4]}]', "result 0: there is no picture 'no' in"),
        ("v/a.xml", "<annotation>", "a.xml: no XML file"),
        (
            "v/a.xml",
            "<a><object><bndbox><xmin>1</xmin></bndbox></object></a>",
            "object 0: its bndbox is not four",
        ),
        ("v/a.txt", "0 0.5 0.5 0.1", "a.txt, line 1: is no line"),
        ("v/a.txt", "0 0.5 0.5 0.1 0.1 0.1 0.2 0.3", "a.txt, line 1: is no line"),
        ("v/a.txt", "0 50 50 10 10", "shares from 0 to 1"),
        ("v/a.md", "", "holds 0 .xml files, 0 .txt files"),
    ],
)
def test_annotations_that_cannot_be(tmp_path, pictures, name, text, words):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    with pytest.raises(InputError) as error:
        read_boxes(place.parent if place.parent != tmp_path else place, pictures)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("said", "end", "fits"),
    [
        ({"width": 40, "height": 30}, 40.9, True),
        ({"width": 40, "height": 30}, 57, False),
        ({"width": 20, "height": 30}, 40, True),
        ({"width": "40", "height": 30}, 57, True),
        ({}, 57, True),
    ],
    ids=["rounded", "wider", "the picture is another", "no number", "unknown"],
)
def test_a_box_that_ends_outside_its_picture_is_refused_where_the_size_is_known(
    tmp_path, pictures, said, end, fits
):
    """Without a size no picture is opened: who reads the list refuses the box."""
    images = [{"id": 1, "file_name": "a.png", **said}]
    content = {"images": images, "annotations": [{"image_id": 1, "bbox": [7, 0, end - 7, 9]}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    if fits:
        assert len(read_boxes(tmp_path / "x.json", pictures)) == 1
        return
    with pytest.raises(InputError, match="annotation 0: the box ends at x1 = 57, y1 = 9, outside .* 40 x 30"):
        read_boxes(tmp_path / "x.json", pictures)


def test_a_list_of_boxes_is_csv(tmp_path, pictures, capsys):
    given = {"annotations": coco(tmp_path), "images": pictures, "out": tmp_path / "b.parquet"}
    assert call(boxes.main, **given) == 1
    assert "b.parquet: a table is not written as .parquet; end its name in .csv" in capsys.readouterr().err


def test_a_heic_picture_has_the_size_that_it_is_read_with(tmp_path, pictures):
    """On its side, as a phone writes it; Pillow alone cannot open it."""
    heif = pytest.importorskip("pillow_heif")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = heif.from_pillow(Image.new("RGB", (64, 32)))
    picture.save(pictures / "p.heic", exif=turned.tobytes())
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "p.txt").write_text("0 0.5 0.5 1 1\n")
    code = (
        "import sys; from pathlib import Path; from sslood.deploy.boxes.formats import read_boxes\n"
        "(box,) = read_boxes(*map(Path, sys.argv[1:])); print(*box.edges)"
    )
    command = [sys.executable, "-c", code, tmp_path / "yolo", pictures]
    done = subprocess.run(command, capture_output=True, text=True)
    width, height = read_image(pictures / "p.heic").size
    assert done.stdout == f"0.0 0.0 {width}.0 {height}.0\n", done.stderr


def test_names_of_classes_in_another_encoding(tmp_path, pictures):
    (yolo(tmp_path) / "classes.txt").write_bytes("hund\nkätzchen\n".encode("latin-1"))
    with pytest.raises(InputError, match="classes.txt: is no UTF-8 text .*; save it as that"):
        read_boxes(tmp_path / "yolo", pictures)


def test_from_annotations_to_decisions_about_pictures(
    tmp_path, pictures, scored, monkeypatch, capsys, detector
):  # noqa: F811
    """Each box is decided about by its own pixels, and each picture by its boxes."""
    array = np.zeros((30, 40), np.uint8)
    array[:, 20:] = 200  # the scorer below calls what begins with it OOD
    Image.fromarray(array).save(pictures / "a.png")
    Image.fromarray(0 * array).save(pictures / "c.png")
    content = [
        *({"image_id": "a", "bbox": [x, 0, 10, 10]} for x in (0, 20, 30)),
        *({"image_id": "c", "bbox": [x, 0, 10, 10]} for x in (0, 20)),
        {"image_id": "c", "bbox": [0, 0, 3, 10]},
    ]
    (tmp_path / "r.json").write_text(json.dumps(content))
    arguments = {"annotations": tmp_path / "r.json", "images": pictures}
    assert call(boxes.main, **arguments, out=tmp_path / "boxes.csv") == 0
    assert "5 boxes of 2 pictures; 1 with a side below 8 pixels is left out" in capsys.readouterr().out
    status, rows, said = scored(tmp_path / "boxes.csv", by_image=tmp_path / "i.csv", html=tmp_path / "p.html")
    assert status == 0, said
    assert [row["is_ood"] for row in rows] == ["false", "true", "true", "false", "false"]
    assert [(row["path"], row["x0"]) for row in rows[:3]] == [("in/a.png", x) for x in ("0", "20", "30")]
    with open(tmp_path / "i.csv", newline="") as file:
        pictures_ = list(csv.DictReader(file))
    assert [(row["path"], row["boxes"], row["ood_boxes"]) for row in pictures_] == [
        ("in/a.png", "3", "2"),
        ("in/c.png", "2", "0"),
    ]
    assert float(pictures_[0]["p_value"]) == pytest.approx(3 / 201) and pictures_[0]["worst"] == "20 0 30 10"
    assert "1 of 2 pictures are OOD at a false-alarm rate of 0.05 per picture" in said
    assert (tmp_path / "p.html").read_text().count("data:image/png") == 5


def test_boxes_of_a_picture_that_is_spelt_in_two_ways_are_judged_together(pictures):
    (pictures / "link.png").symlink_to(pictures / "a.png")
    files = [
        f"{pictures}/{name}#xywh=0,0,9,9" for name in ("a.png", "deep/../a.png", "link.png", "deep/b.jpg")
    ]
    rows = [{"path": file, "file": file, "score": 1.0, "p_value": 0.02, "is_ood": True} for file in files]
    found = list(by_image(rows, 0.05))
    assert [(row["path"], row["boxes"]) for row in found] == [(files[0], 3), (files[3], 1)]
    assert [row["is_ood"] for row in found] == [False, True]


def test_rounding_decides_nothing_where_a_p_value_is_the_rate(tmp_path):
    """Of 19 images the smallest p-value is 0.05, and 3 * 0.05 is above 0.15 in floats."""
    assert most_boxes(0.15, 19) == 3
    rows = [{"path": "a", "file": "a", "score": 1.0, "p_value": 1 / 20, "is_ood": True}] * 3
    (found,) = by_image(rows, 0.15)
    assert found["is_ood"] and found["p_value"] == 0.15


def test_what_is_said_of_one_picture(tmp_path, pictures, capsys):
    (tmp_path / "r.json").write_text('[{"image_id": "a", "bbox": [0, 0, 9, 9]}]')
    arguments = {"annotations": tmp_path / "r.json", "images": pictures}
    assert call(boxes.main, **arguments, out=tmp_path / "boxes.csv") == 0
    assert "boxes.csv: 1 box of 1 picture." in capsys.readouterr().out
    rows = [{"path": "a", "file": "a", "score": 1.0, "p_value": 1 / 20, "is_ood": True}] * 2
    _, beyond = save_by_image(tmp_path / "i.csv", rows, 0.05, 19)
    assert beyond.startswith("1 picture has more than 1 box and so cannot be OOD")


def test_the_rate_holds_per_picture_however_many_boxes_it_has():
    """Simulated: pictures of 1 to 20 boxes, all ID, whose scores depend on each other."""
    rng = np.random.default_rng(0)
    alarms, single = [], []
    for _ in range(40):
        calibration = np.sort(rng.normal(size=999))
        threshold = conformal_threshold(calibration, 0.05)
        rows = []
        for picture in range(50):
            count = int(rng.integers(1, 21))
            common = rng.normal()
            for score_ in 0.6 * common + 0.8 * rng.normal(size=count):
                p_value = (1 + (calibration >= score_).sum()) / 1000
                row = {"path": str(picture), "score": score_, "p_value": p_value, "file": "x"}
                rows.append(row | {"is_ood": score_ > threshold.value})
        found = list(by_image(rows, threshold.alpha))
        alarms += [row["is_ood"] for row in found]
        single += [row["ood_boxes"] > 0 for row in found]
    assert np.mean(alarms) < 0.05 < 0.2 < np.mean(single)
    assert most_boxes(0.05, 999) == 50 and most_boxes(0.05, 99) == 5
