"""Lists of pictures in every form that people have them in."""

import os
import unicodedata

import pytest

from sslood.core.errors import InputError
from sslood.core.names import path_cell
from sslood.data.sets.lists import picture_path, read_list
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.user_images import read_user_images
from tests.data.sets.test_layout import paint
from tests.data.sets.test_user_images import download


def listed(folder, text, name="list.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


TABLE = "path,label,split\na b/1.png,cat,train\na b/2.png,dog,test\na b/3.png,dog,train\na b/4.png,cat,test\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", TABLE),
        ("list.csv", "\ufeff" + TABLE.replace("\n", "\r\n")),
        ("list.csv", TABLE.replace(",", ";")),
        ("list.tsv", TABLE.replace(",", "\t")),
        ("list.TXT", TABLE),
        ("list.csv", "Path,Label,SPLIT,author\n" + TABLE.split("\n", 1)[1].replace("\n", ",me\n")),
        ("list.csv", TABLE.replace("train\n", "Training\n").replace("test\n", "TEST\n")),
        ("list.csv", TABLE.replace("a b/", "a b\\")),
        ("list.csv", TABLE.replace("a b/", "./a b/../a b/").replace(",cat", ", cat ")),
    ],
)
def test_tables_of_all_kinds(tmp_path, name, text):
    paint(tmp_path, *(f"a b/{n}.png" for n in range(1, 5)))
    splits, _ = read_user_images("mine", listed(tmp_path, text, name), ROLES["id"])
    assert splits["train"].classes == ("cat", "dog") and splits["train"].labels.tolist() == [0, 1]
    paths = [os.path.normpath(path) for path in splits["test"].images]
    assert paths == [str(tmp_path / f"a b/{n}.png") for n in (2, 4)]
    assert splits["test"].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("1.png cat\na b/2.png dog\n", [0, 1]),
        ("1.png\tcat\r\na b/2.png\tdog\r\n", [0, 1]),
        ("1.png 10\na b/2.png 9\n\n", [1, 0]),
        ("1.png\na b/2.png\n", [-1, -1]),
        ("Path label\n1.png cat\na b/2.png dog\n", [0, 1]),
    ],
)
@pytest.mark.parametrize("name", ["list.txt", "list.lst"])
def test_lines_of_path_and_label(tmp_path, text, labels, name):
    paint(tmp_path, "1.png", "a b/2.png")
    splits, source = read_user_images("mine", listed(tmp_path, text, name), ROLES["far"])
    assert splits[""].labels.tolist() == labels and source["list"] == name
    output, status = download(tmp_path / "out", "far", tmp_path / name)
    assert status == 0 and "mine, 2 test images" in output


def test_a_text_that_is_no_list(tmp_path):
    with pytest.raises(InputError, match="lines `path` or `path label`, but there is no file 'Dear'"):
        read_list(listed(tmp_path, "Dear colleague\nhere are the pictures\n", "list.txt"))
    with pytest.raises(InputError, match="holds NUL bytes"):
        read_list(listed(tmp_path, b"path\na\0.png\n"))
    with pytest.raises(InputError, match="UTF-8; save it as UTF-8|save it as UTF-8"):
        read_list(listed(tmp_path, "path\na.png\n".encode("utf-16")))
    with open(tmp_path / "huge.csv", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="too large for a list"):
        read_list(tmp_path / "huge.csv")


@pytest.mark.parametrize(
    ("other", "called"),
    [
        ("./1.png", "1.png"),
        ("pictures/../1.png", "1.png"),
        ("{folder}/1.png", "1.png"),
        ("hard.png", "1.png"),
        ("link.png", "1.png"),
        ("pictures/é.png", "pictures/é.png"),
    ],
)
def test_one_picture_by_two_names_is_refused(tmp_path, other, called):
    paint(tmp_path, "1.png", "pictures/2.png", "pictures/é.png")
    os.link(tmp_path / "1.png", tmp_path / "hard.png")
    (tmp_path / "link.png").symlink_to("1.png")
    other = unicodedata.normalize("NFD", other.format(folder=tmp_path))
    place = listed(tmp_path, f"path\n{called}\npictures/2.png\n{other}\n")
    with pytest.raises(InputError, match=r"row 4: lists .*, as row 2 does, where it is called .*; keep one"):
        read_list(place)


def test_spellings_of_which_one_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["é.png", "a%41.png", "=cmd.png", "a\rb.png", os.fsdecode(b"\xff.png")]
    paint(tmp_path, *names)
    folder = tmp_path / "elsewhere"
    assert picture_path(folder, "~/é.png") == str(tmp_path / "é.png")
    assert picture_path(tmp_path, unicodedata.normalize("NFD", "é.png")) == str(tmp_path / "é.png")
    for name in names:
        assert picture_path(tmp_path, path_cell(name)) == str(tmp_path / name)
    assert picture_path(tmp_path, "gone.png") == str(tmp_path / "gone.png")
    rows = "".join(f"{path_cell(name)}\n" for name in names)
    output, status = download(tmp_path / "out", "far", listed(tmp_path, f"path\n{rows}"))
    assert status == 0 and "5 test images" in output


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("path", "words"),
    [("/dev/zero", "no regular file"), ("pipe", "no regular file"), ("pictures", "a folder")],
)
def test_a_list_that_names_no_file(tmp_path, path, words):
    paint(tmp_path, "pictures/1.png")
    os.mkfifo(tmp_path / "pipe")
    place = listed(tmp_path, f"path\npictures/1.png\n{path}\n")
    output, status = download(tmp_path / "out", "far", place, skip_unreadable=True)
    assert status == 1 and f"row 3: '{path}' is {words}" in output


def test_names_that_no_file_can_have_are_unreadable(tmp_path):
    paint(tmp_path, "1.png")
    place = listed(tmp_path, f"path\n1.png\n{'x' * 300}.png\n{'y/' * 3000}.png\n1.png/2.png\n")
    output, status = download(tmp_path / "out", "far", place, skip_unreadable=True)
    assert status == 0 and "1 test images" in output and "3 unreadable ones" in output


def test_columns_of_ones_own_are_no_fault(tmp_path):
    paint(tmp_path, "1.png", "2.png")
    place = listed(tmp_path, "path,camera,set\n1.png,a,1\n2.png,b,2\n")
    assert read_list(place).rows[1] == {"path": "2.png", "camera": "b", "set": "2"}


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("path,lable", "1.png,a", "column 'lable' must be called label"),
        ("path,Splits", "1.png,a", "column 'Splits' must be called split"),
        ("path,subset", "1.png,train", "column 'subset' must be called split"),
        ("path,path", "1.png,1.png", "names a column twice"),
        ("path,", "1.png,", "one without a name"),
        ("image;label", "1.png;a", "call 'image' path"),
        ("1.png,cat", "2.png,dog", "the first line is '1.png,cat'; it must name the columns"),
    ],
)
def test_columns_that_are_meant_otherwise(tmp_path, header, row, words):
    with pytest.raises(InputError, match=words):
        read_list(listed(tmp_path, f"{header}\n{row}\n"))


def test_labels_in_one_spelling_are_one_class_in_a_fixed_order(tmp_path):
    names = [f"{n}.png" for n in range(4)]
    paint(tmp_path, *names)
    labels = [unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), " b ", "b"]
    place = listed(tmp_path, "path,label\n" + "".join(map("{},{}\n".format, names, labels)))
    pictures = read_user_images("mine", place, ROLES["id"])[0][""]
    assert pictures.classes == ("b", "é") and pictures.labels.tolist() == [1, 1, 0, 0]
    place = listed(tmp_path, "path,label\n" + "".join(map("{},{}\n".format, names, ["7", "007", "07", "6"])))
    assert read_user_images("mine", place, ROLES["id"])[0][""].classes == ("6", "007", "07", "7")


def test_a_class_that_yaml_does_not_read_as_text_needs_quotes(tmp_path):
    from tests.data.commands import download_words, invoke
    from tests.data.sets.test_user_images import SETTINGS

    paint(tmp_path / "mine", *(f"{name}/{n}.png" for name in ("006", "007", "008") for n in "1234"))
    item = {"role": "id", "source": "folder", "folder": str(tmp_path / "mine")}
    for given, status in (("7", 1), ("007", 0)):
        settings = SETTINGS | {"heldout": [given]}
        result = invoke(download_words(tmp_path / "out", "mine", item, settings, "mine"))
        assert result.exit_code == status, result.output
        assert status == 0 or "write a class such as '006' in quotes" in result.output


def test_rows_are_numbered_as_in_the_file(tmp_path):
    paint(tmp_path, "1.png")
    with pytest.raises(InputError, match="row 5: lists '1.png', as row 3 does"):
        read_list(listed(tmp_path, "path\n\n1.png\n\n1.png\n"))
    with pytest.raises(InputError, match="row 3: lists '1.png', as row 1 does"):
        read_list(listed(tmp_path, "1.png\n\n1.png\n", "list.txt"))
