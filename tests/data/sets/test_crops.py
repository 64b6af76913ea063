"""Boxes of pictures as pictures of their own: the same pixels as cut out by hand, never another picture's."""

import csv
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.data.sets import images
from sslood.data.sets.convert import Chain, convert, converted
from sslood.data.sets.crops import LastPictures, file_numbers, split_box, with_box
from sslood.data.sets.images import read_image
from sslood.data.sets.lists import read_list
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import read_user_images
from tests.data.sets.test_user_images import download

WIDTH, HEIGHT = 40, 30


@pytest.fixture
def picture(tmp_path):
    """A picture of noise, as PNG and as array."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a b.png")
    return tmp_path / "a b.png", pixels


def listed(folder, *rows, head="path,x0,y0,x1,y1", name="boxes.csv"):
    (folder / name).write_text("\n".join([head, *rows]) + "\n")
    return folder / name


def test_a_box_is_the_pixels_that_it_touches(picture):
    path, pixels = picture
    found = read_list(listed(path.parent, "a b.png,3.2,4,17.9,12.1", "a b.png,,,,", "a b.png,-0.5,0,40.4,30"))
    cut = [np.asarray(read_image(name)) for name in found.paths]
    np.testing.assert_array_equal(cut[0], pixels[4:13, 3:18])
    np.testing.assert_array_equal(cut[1], pixels)
    np.testing.assert_array_equal(cut[2], pixels)
    square = convert([found.paths[0]], 8, 3, "box", square="squash")
    by_hand = Image.fromarray(pixels[4:13, 3:18]).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(square[0], np.asarray(by_hand).transpose(2, 0, 1))


def test_a_box_is_of_the_upright_picture(tmp_path):
    stored = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    exif = stored.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise makes it upright
    stored.save(tmp_path / "t.png", exif=exif)
    upright = np.rot90(np.asarray(stored), -1)
    cut = read_image(with_box(str(tmp_path / "t.png"), (0, 1, 2, 4)))
    np.testing.assert_array_equal(np.asarray(cut), upright[1:4, 0:2])


def test_a_file_that_is_called_like_a_box_is_a_file(picture):
    path, _ = picture
    odd = path.with_name("a b.png#xywh=1,2,3,4")
    Image.new("L", (5, 5), 7).save(odd, "png")
    assert split_box(odd) == (str(odd), None) and read_image(odd).size == (5, 5)
    assert split_box(path.with_name("a b.png#xywh=1,2,3,5"))[1] == (1, 2, 4, 7)


def test_the_boxes_of_a_picture_decode_it_once(picture, monkeypatch):
    path, pixels = picture
    opened = []
    plain = Image.open
    monkeypatch.setattr(images, "_LAST", LastPictures())
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(1) or plain(*a, **k))
    names = [with_box(str(path), (x, 0, x + 8, 8)) for x in range(32)]
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda name: converted(name, Chain(8, 3), []), names))
    assert len(opened) == 1
    for x, array in enumerate(arrays):
        np.testing.assert_array_equal(array, pixels[:8, x : x + 8].transpose(2, 0, 1))
    Image.fromarray(255 - pixels).save(path)  # another picture by the same name
    again = read_image(names[0])
    np.testing.assert_array_equal(np.asarray(again), 255 - pixels[:8, :8])


def test_what_is_to_be_said_of_a_picture_is_said_of_each_box(picture, monkeypatch):
    """Otherwise the remarks of a set depend on which thread decodes the picture."""
    monkeypatch.setattr(images, "_LAST", LastPictures())
    plain = images._decoded
    monkeypatch.setattr(images, "_decoded", lambda *given: given[3].append("odd  bytes") or plain(*given))
    said = [[], [], None]
    for x, remarks in enumerate(said):
        read_image(with_box(str(picture[0]), (x, 0, x + 8, 8)), remarks=remarks)
    assert said == [[(images.ODD, "odd bytes")]] * 2 + [None]


@pytest.mark.parametrize(
    ("rows", "head", "words"),
    [
        (["a b.png,1,2,3"], "path,x0,y0,x1", "has a column x0 but no y1; boxes need all four"),
        (["a b.png,1,2,3,4"], "path,xmin,ymin,xmax,ymax", "column 'xmin' must be called x0"),
        (["a b.png,1,2,one,4"], None, "row 2: x1 is 'one'; write a number of pixels"),
        (["a b.png,1,2,nan,4"], None, "row 2: x1 is 'nan'"),
        (["a b.png,1,,3,4"], None, "row 2: y0 is ''"),
        (["a b.png,3,2,3,4"], None, "row 2: the box (3, 2, 3, 4) has no pixel; x1 must be above x0"),
        (["a b.png,1,9,3,4"], None, "has no pixel; y1 must be above y0"),
        (["a b.png,-5,2,3,4"], None, "begins outside the picture"),
        (["a b.png,1,2,3,4", "./a b.png,1,2,3,4"], None, "row 3: lists './a b.png', as row 2 does"),
        (["a b.png,1,2,42,4"], None, "ends at x1 = 42, y1 = 4, outside the picture of 40 x 30 pixels"),
        (["a b.png,40,2,41,4"], None, "outside the picture of 40 x 30"),
        (['"a b.png#xywh=1,2,0,4"'], "path", "a b.png#xywh=1,2,0,4: the box has no pixel; its width"),
        (['"a b.png#xywh=1,2,3,0"'], "path", "a b.png#xywh=1,2,3,0: the box has no pixel; its width"),
    ],
)
def test_boxes_that_cannot_be(picture, rows, head, words):
    path, _ = picture
    with pytest.raises(InputError) as error:
        for name in read_list(listed(path.parent, *rows, head=head or "path,x0,y0,x1,y1")).paths:
            read_image(name)
    assert words in str(error.value)


def test_a_list_of_boxes_is_a_set_whose_pictures_stay_on_one_side(tmp_path):
    """Boxes may overlap, so a picture whose boxes are in train has none in validation or test."""
    rows = []
    for red in range(12):
        Image.new("RGB", (16, 16), (red * 20, red, 90 - red)).save(tmp_path / f"{red}.png")
        rows += [f"{red}.png,{x},0,{x + 8},8,{'odd' if red % 2 else 'even'}" for x in range(0, 8, 2)]
    place = listed(tmp_path, *rows, head="path,x0,y0,x1,y1,label")
    splits, _ = read_user_images("mine", place, ROLES["id"])
    assert len(splits[""].images) == 48 and splits[""].classes == ("even", "odd")
    output, status = download(tmp_path / "out", "id", place, "mine")
    assert status == 0, output
    tensors, metadata = load_tensors(tmp_path / "out", kind="set")
    reds = {split: set(tensors[f"{split}.images"][:, 0, 0, 0].tolist()) for split in metadata["splits"]}
    assert set.union(*reds.values()) == {red * 20 for red in range(12)}
    assert sum(map(len, reds.values())) == 12
    assert all(metadata["splits"][split] == 4 * len(reds[split]) for split in reds)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_boxes_of_one_file_under_several_names_stay_on_one_side(tmp_path, link):
    rows = []
    for red in range(12):
        Image.new("RGB", (16, 16), (red * 20, red, 90 - red)).save(tmp_path / f"{red}.png")
        link(tmp_path / f"{red}.png", tmp_path / f"again{red}.png")
        names = (f"{red}.png", f"./{red}.png", f"again{red}.png", f"{tmp_path}/{red}.png")
        rows += [f"{name},{2 * x},0,{2 * x + 8},8,{red % 2}" for x, name in enumerate(names)]
    place = listed(tmp_path, *rows, head="path,x0,y0,x1,y1,label")
    output, status = download(tmp_path / "out", "id", place, "mine")
    assert status == 0, output
    tensors, metadata = load_tensors(tmp_path / "out", kind="set")
    reds = [set(tensors[f"{split}.images"][:, 0, 0, 0].tolist()) for split in metadata["splits"]]
    assert len(reds) == 3 and set.union(*reds) == {red * 20 for red in range(12)}
    assert sum(map(len, reds)) == 12


def test_files_are_numbered_as_they_appear(picture):
    """So a cut by these numbers does not depend on the folder, whose name decides how absolute paths sort."""
    path, _ = picture
    (path.parent / "z").symlink_to(path)
    names = ["z", "missing", "a b.png", "a b.png#xywh=1,2,3,4", "./missing#xywh=1,2,3,4", "other"]
    assert file_numbers(path.parent / name for name in names) == [0, 1, 0, 0, 1, 2]


def test_a_table_of_scores_is_a_list_of_the_same_boxes(picture):
    path, _ = picture
    place = listed(path.parent, "a b.png,1,2,3,4,7", head="path,x0,y0,x1,y1,score", name="scores.csv")
    with open(place, newline="") as file:
        assert next(csv.DictReader(file))["x0"] == "1"
    assert split_box(read_list(place).paths[0])[1] == (1, 2, 3, 4)
