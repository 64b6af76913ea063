"""Maps, neighbours and the page from the commands, on real digits."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.deploy.maps.drawing import SIDE
from sslood.deploy.maps.explaining import explain, heat_maps
from sslood.deploy.maps.nearest import Nearest, keep_nearest, opened
from sslood.deploy.maps.showing import save_maps
from sslood.deploy.packed import checksum
from sslood.deploy.scorer import load_deployed
from sslood.ood.kit.outputs import read_embeddings
from tests.deploy.test_deployment import deployed, scored, write_deployment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The deployment of digits, with detector files without and with maps: plain and maps."""
    folder = write_deployment(tmp_path_factory.mktemp("maps"))
    assert deployed(folder, "knn", out="plain.safetensors") == 0
    assert deployed(folder, "knn", out="maps.safetensors", maps=None, sets_dir=folder) == 0
    return folder


@pytest.fixture(scope="module")
def scorer(folder):
    return load_deployed(folder / "maps.safetensors")


@pytest.fixture(scope="module")
def shown(folder, tmp_path_factory):
    """What `score` writes with everything: its folder, and the rows of the table."""
    out = tmp_path_factory.mktemp("shown")
    extra = {"html": out / "page.html", "maps": out / "maps", "id_images": folder / "digits.safetensors"}
    status, rows = scored(folder, out, "maps.safetensors", html_count=50, **extra)
    assert status == 0
    return out, rows


def test_no_score_depends_on_maps(folder, shown, tmp_path):
    assert scored(folder, tmp_path, "plain.safetensors")[0] == 0
    assert (tmp_path / "s.csv").read_bytes() == (shown[0] / "s.csv").read_bytes()


def test_there_is_a_map_of_each_picture_of_the_page(folder, shown, scorer):
    out, rows = shown
    with open(out / "maps/maps.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert {one["map"] for one in listed} | {"maps.csv"} == {path.name for path in (out / "maps").iterdir()}
    ranked = sorted(rows, key=lambda row: (-float(row["score"]), row["path"]))
    flagged = [row["path"] for row in ranked if row["is_ood"] == "true"]
    assert len(listed) == 50 and [one["path"] for one in listed[: len(flagged)]] == flagged[:50]
    for one in listed[:3]:
        path = folder / "pictures" / one["path"]
        with Image.open(out / "maps" / one["map"]) as image, Image.open(path) as original:
            assert image.size == original.size and image.mode == "RGB" and max(image.size) <= SIDE
            pixels = np.array(original)[None, None]
        heat = heat_maps(scorer, pixels)[0]
        assert heat.max() == pytest.approx(float(one["hottest"]), rel=1e-2)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert (int(one["x"]), int(one["y"])) == (round(2 * column + 1), round(2 * row + 1))


def test_maps_of_an_earlier_run_go_and_other_files_stay(folder, tmp_path):
    extra = {"maps": tmp_path / "maps", "images": folder / "pictures" / "heldout"}
    assert scored(folder, tmp_path, "maps.safetensors", html_count=5, **extra)[0] == 0
    (tmp_path / "maps" / "mine.png").write_text("")
    assert scored(folder, tmp_path, "maps.safetensors", html_count=3, **extra)[0] == 0
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert len(names) == 5 and {"mine.png", "maps.csv"} < names


def test_pictures_that_are_called_like_maps_stay(tmp_path):
    """In a folder of maps, and in one with a file of the user's that is called as the index of maps."""
    for name, index in (
        ("maps", "map,path,hottest,x,y\n00001-a.png,a.png,1,2,3\n../00002-b.png,b.png,1,2,3\n"),
        ("mine", "20241231-door.png,door\n00001-a.png,a\n"),
        ("none", ""),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "maps.csv").write_text(index)
        for file in ("00001-a.png", "20241231-door.png", "../00002-b.png"):
            (folder / file).write_text("")
        save_maps(folder, [], {}, None)
        left = {"maps.csv", "20241231-door.png"} | ({"00001-a.png"} if name != "maps" else set())
        assert {path.name for path in folder.iterdir()} == left
    assert (tmp_path / "00002-b.png").exists()


def test_the_page_shows_heat_and_the_nearest_digits(folder, shown, scorer):
    out, rows = shown
    page = (out / "page.html").read_text()
    assert (
        page.count('class="heat"') == 50 and page.count("<figure ") == 50 and page.count('class="near"') == 50
    )
    assert 'style="left:0.00%;top:0.00%;width:100.00%;height:100.00%"' in page, "the network sees all of it"
    first = re.search(r'<img alt="([^"]+)"', page)[1]
    train = read_embeddings(folder / "e", "digital", 0).outputs("digits", "train").features
    with Image.open(folder / "pictures" / first) as image:
        said = explain(scorer, [folder / "pictures" / first])[folder / "pictures" / first]
        features = scorer.network.backbone(_normal(np.asarray(image))).detach().numpy()
    near = NearestNeighbors(n_neighbors=3, metric="cosine").fit(train)
    distances, places = near.kneighbors(features)
    assert [one.name for one in said.nearest] == [f"digits.train[{place}]" for place in places[0]]
    np.testing.assert_allclose([1 - one.likeness for one in said.nearest], distances[0], atol=1e-3)
    shown_first = re.findall(
        r'title="digits\.train\[(\d+)\], cosine[^>]*src="data:image/png;base64,([^"]+)"', page
    )
    assert [int(place) for place, _ in shown_first[:3]] == places[0].tolist()
    images = load_tensors(folder / "digits.safetensors")[0]["train.images"]
    for place, code in shown_first[:3]:
        with Image.open(io.BytesIO(base64.b64decode(code))) as thumbnail:
            np.testing.assert_array_equal(np.asarray(thumbnail), images[int(place), 0])


def _normal(pixels):
    return ((torch.from_numpy(pixels.copy()).float() / 255 - 0.3) / 0.37)[None, None]


def test_names_stand_where_no_picture_is_found(folder, tmp_path):
    assert scored(folder, tmp_path, "maps.safetensors", html=tmp_path / "page.html", html_count=4)[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert len(re.findall(r'<small title="digits\.train\[\d+\], cosine', page)) == 12
    extra = {"html": tmp_path / "page.html", "html_count": 4, "id_images": tmp_path}
    assert scored(folder, tmp_path, "maps.safetensors", **extra)[0] == 0
    assert (tmp_path / "page.html").read_text() == page, "none of the folder has such a name"


def test_pictures_of_a_folder_are_linked(tmp_path):
    (tmp_path / "id" / "a b").mkdir(parents=True)
    Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / "id" / "a b" / "x#.png")
    found = opened(tmp_path / "id")("a b/x#.png")
    assert found[0].getpixel((0, 0)) == (9, 8, 7) and found[1] == tmp_path / "id" / "a b" / "x#.png"
    assert opened(tmp_path / "id")("none.png") is None


def test_what_does_not_go_together_is_refused_before_work(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    page = tmp_path / "page.html"
    for detector, options, says in [
        (
            "plain",
            {"maps": tmp_path / "m"},
            "--maps: this detector keeps no patches; write its file again with",
        ),
        ("maps", {"maps": tmp_path / "file"}, "file' is there and no folder; choose another"),
        ("maps", {"maps": "/proc/none/x"}, "/proc/none/x' cannot be written (/proc: "),
        (
            "plain",
            {"id_images": folder, "html": page},
            "--id_images shows the nearest ID pictures on the page",
        ),
        ("maps", {"id_images": folder}, "--id_images shows the nearest ID pictures on the page"),
        ("maps", {"id_images": tmp_path / "none", "html": page}, "none: no such file"),
    ]:
        assert scored(folder, tmp_path, f"{detector}.safetensors", **options)[0] == 1
        assert says in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists() and not (tmp_path / "m").exists()
    with pytest.raises(InputError, match="keeps no patches"):
        heat_maps(load_deployed(folder / "plain.safetensors"), np.zeros((1, 1, 8, 8), np.uint8))


def test_two_runs_write_the_same_bytes(folder, shown, tmp_path):
    assert deployed(folder, "knn", out="again.safetensors", maps=None, sets_dir=folder) == 0
    assert (folder / "again.safetensors").read_bytes() == (folder / "maps.safetensors").read_bytes()
    extra = {
        "html": tmp_path / "page.html",
        "maps": tmp_path / "maps",
        "id_images": folder / "digits.safetensors",
    }
    assert scored(folder, tmp_path, "maps.safetensors", html_count=50, **extra)[0] == 0
    for path in (shown[0] / "maps").iterdir():
        assert (tmp_path / "maps" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "page.html").read_text() == (shown[0] / "page.html").read_text()


def test_names_that_leave_their_folder_show_nothing(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    names = ["a\\x.png", "../x.png", "deep/../../x.png", str(tmp_path / "x.png")]
    for place in (inner / names[0], tmp_path / "x.png"):
        Image.new("L", (8, 8)).save(place)
    arrays, said = keep_nearest(np.eye(4), names).pack()
    found = [opened(inner)(name) for name in Nearest.unpack(arrays, said["nearest"], "d.safetensors").names]
    assert found[0] is not None and found[0][1] == inner / names[0] and found[1:] == [None] * 3


def test_names_that_are_no_text_are_refused():
    arrays, _ = keep_nearest(np.eye(2), ["a.png", "b.png"]).pack()
    with pytest.raises(InputError, match="d.safetensors: the nearest ID pictures"):
        Nearest.unpack(arrays, {"names": ["a.png", 3]}, "d.safetensors")


def test_sealed_files_that_lie_about_their_parts_are_refused(folder, tmp_path):
    arrays, about = load_tensors(folder / "maps.safetensors")
    content = {key: value for key, value in about.items() if key not in ("kind", "format")}
    for change in (
        lambda a, c: a.pop("nearest.vectors"),
        lambda a, c: c.pop("nearest"),
        lambda a, c: c.pop("patches"),
        lambda a, c: a.update({"patches.x": np.zeros(2, np.float32)}),
        lambda a, c: a.update({"nearest.vectors": a["nearest.vectors"][1:]}),
        lambda a, c: c.update(nearest=[]),
        lambda a, c: c.update(patches=7),
    ):
        lying, said = dict(arrays), json.loads(json.dumps(content))
        change(lying, said)
        said["checksum"] = checksum(lying, said)
        save_tensors(tmp_path / "d.safetensors", lying, kind="detector", metadata=said)
        with pytest.raises(InputError, match="d.safetensors"):
            load_deployed(tmp_path / "d.safetensors")
