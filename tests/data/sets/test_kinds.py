"""What a file is decides its content; what is not taken is counted by reason; one file is one picture."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.data.sets import kinds
from sslood.data.sets.images import read_bytes, read_image
from sslood.data.sets.kinds import reason_not_taken, what_is
from sslood.data.sets.pictures import digest
from sslood.data.sets.roles.roles import ROLES
from sslood.data.sets.tree import list_images, scan
from sslood.data.sets.user_images import read_user_images
from tests.data.sets.test_layout import paint
from tests.data.sets.test_user_images import download

FORMATS = ["jpeg", "gif", "avif", "jpeg2000", "png", "webp", "bmp", "tiff", "ppm", "ico", "pcx", "sgi", "dds"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["a", "a.of odd kind", "a.dat", "a.txt"])
def test_a_picture_is_one_by_its_content(tmp_path, format, name):
    Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / name, format)
    assert reason_not_taken(str(tmp_path / name), name) == ""
    assert list_images(tmp_path) == [str(tmp_path / name)]


@pytest.mark.parametrize("ending", ["jfif", "jpe", "gif", "avif", "jp2", "JPG", "Gif", "tga", "pbm", ""])
def test_a_folder_and_a_list_take_the_same_files(tmp_path, ending):
    kind = {"": "png", "pbm": "ppm"}.get(ending.lower())
    path = tmp_path / "mine" / (f"a.{ending}" if ending else "a")
    path.parent.mkdir()
    Image.new("1" if ending == "pbm" else "L", (16, 16), 1).save(path, kind)
    (tmp_path / "list.csv").write_text(f"path\nmine/{path.name}\n")
    for place in ("mine", "list.csv"):
        output, status = download(tmp_path / "out", "far", tmp_path / place)
        assert status == 0 and "1 test images" in output, output


def test_every_file_that_is_not_taken_is_counted_by_reason_on_one_line(tmp_path):
    paint(tmp_path / "mine", "a.png", "b.png")
    mine = tmp_path / "mine"
    (mine / "notes.txt").write_text("no picture")
    (mine / "labels.txt").write_text("none either")
    (mine / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(99))
    (mine / "nothing").write_bytes(b"")
    (mine / ".hidden.png").write_bytes(b"")
    (mine / "lost").symlink_to("nowhere")
    (mine / "again.png").symlink_to("a.png")
    os.link(mine / "b.png", mine / "c.png")
    os.mkfifo(mine / "pipe")
    output, status = download(tmp_path / "out", "far", mine)
    assert status == 0, output
    line = (
        "mine: 9 of 11 files are not taken: 2 no picture (.txt), 2 the same file under another name, "
        "1 empty, 1 hidden, 1 links to nothing, 1 no picture (.mp4), 1 no regular file\n"
    )
    assert line in output
    source = load_tensors(tmp_path / "out")[1]["source"]
    assert sum(source["not_taken"].values()) == 9 and source["notes"]


def test_a_folder_without_pictures_says_what_is_in_it(tmp_path):
    with pytest.raises(InputError, match="no image in it; it is empty"):
        read_user_images("mine", tmp_path, ROLES["far"])
    for name in ("a.csv", "b.csv", "c"):
        (tmp_path / name).write_text("path\n")
    with pytest.raises(InputError, match=r"no image in it \(2 no picture \(\.csv\), 1 no picture\)"):
        read_user_images("mine", tmp_path, ROLES["far"])


def test_pictures_that_would_start_a_program_are_none(tmp_path):
    """Pillow hands PostScript to Ghostscript."""
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert reason_not_taken(str(tmp_path / "a.eps"), "a.eps") == "no picture (.eps)"


def heic(path):
    """Write the first bytes of a HEIC picture, as a phone does."""
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.dat", "a"])
def test_heic_needs_one_more_package_and_says_so(tmp_path, monkeypatch, name):
    monkeypatch.setattr(kinds, "find_spec", lambda package: None)
    paint(tmp_path / "mine", "b.png")
    heic(tmp_path / "mine" / name)
    output, status = download(tmp_path / "out", "far", tmp_path / "mine")
    assert status == 0 and "1 of 2 files are not taken: 1 HEIC, for which `pip install" in output
    kinds.enable_heif.cache_clear()
    heic(tmp_path / "a.jpg")  # a HEIC picture that is called otherwise
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read \(HEIC, for which `pip install"):
        read_image(tmp_path / "a.jpg")


def test_heic_with_the_package(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "a.heic", quality=100)
    shutil.copy(tmp_path / "a.heic", tmp_path / "b")
    assert len(list_images(tmp_path)) == 2
    for path in list_images(tmp_path):
        assert abs(read_image(path).getpixel((9, 9))[0] - 200) < 5


@pytest.mark.timeout(20)
def test_a_device_or_a_pipe_is_never_read(tmp_path):
    (tmp_path / "a.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match="no regular file"):
            read_bytes(tmp_path / name)
        with pytest.raises(InputError, match=rf"{name}: cannot be read \(no regular file\)"):
            read_image(tmp_path / name)
    assert len(digest(list_images(tmp_path), tmp_path)) == 64
    output, status = download(tmp_path / "out", "far", tmp_path)
    assert status == 1 and "a.png: cannot be read (no regular file)" in output


@pytest.mark.parametrize("place", ["mine", "list.csv"])
def test_two_spellings_of_one_name_are_one_picture(tmp_path, place):
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    paint(tmp_path / "mine", names[0])
    shutil.copy(tmp_path / "mine" / names[0], tmp_path / "mine" / names[1])
    (tmp_path / "list.csv").write_text(f"path\nmine/{names[0]}\nmine/{names[1]}\n")
    output, status = download(tmp_path / "out", "far", tmp_path / place)
    if place == "mine":
        assert status == 0 and "1 test images" in output and "1 the same file" in output
    else:
        assert status == 1 and "row 3: lists" in output and "as row 2 does" in output


def test_two_pictures_whose_names_differ_in_spelling_alone_are_two(tmp_path):
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    paint(tmp_path, *names)
    assert len(read_user_images("mine", tmp_path, ROLES["far"])[0][""].labels) == 2


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("train/a/1.png", "test/a/1.png", "in two splits"),
        ("train/a/1.png", "train/b/1.png", "in two classes"),
    ],
)
def test_one_picture_in_two_splits_or_classes_is_named(tmp_path, first, second, words):
    paint(tmp_path, first, *(f"{split}/{name}/2.png" for split in ("train", "test") for name in "ab"))
    os.link(tmp_path / first, tmp_path / second)
    with pytest.raises(InputError, match=words) as failure:
        read_user_images("mine", tmp_path, ROLES["id"])
    assert first in str(failure.value) and second in str(failure.value)


def test_links_between_folders_end(tmp_path):
    """Folders that link to each other can be walked through without end, and in ever more ways."""
    for name in "abcdef":
        paint(tmp_path, f"mine/{name}/1.png", f"kept/{name}/1.png")
        for other in "abcdef".replace(name, ""):
            (tmp_path / f"mine/{name}/to {other}").symlink_to(f"../{other}")
            (tmp_path / f"kept/{name}/to {other}").symlink_to(f"../{other}")
    (tmp_path / "mine/self").symlink_to("self")
    pictures = read_user_images("mine", tmp_path / "mine", ROLES["far"])[0][""]
    names = [os.path.relpath(path, tmp_path / "mine") for path in pictures.images]
    assert names == [f"{name}/1.png" for name in "abcdef"]
    (tmp_path / "mine/a/elsewhere").symlink_to(tmp_path / "kept/a")
    found = scan(tmp_path / "mine")
    assert len(found.places) < 50 and found.left["folder behind more than 3 links"]
    (tmp_path / "hidden").mkdir()
    (tmp_path / "kept").rename(tmp_path / "hidden/.kept")
    (tmp_path / "hidden/a").symlink_to(".kept/a")
    assert list_images(tmp_path / "hidden")[0] == str(tmp_path / "hidden/a/1.png")


def test_loose_pictures_beside_folders(tmp_path):
    """Outliers need no class; the pictures of an ID set do."""
    paint(tmp_path / "mine", "loose.png", "cat/1.png", "dog/1.png")
    pictures = read_user_images("mine", tmp_path / "mine", ROLES["far"])[0][""]
    assert pictures.classes == ("cat", "dog") and pictures.labels.tolist() == [0, 1, -1]
    with pytest.raises(InputError, match=r"loose\.png: is in no class folder"):
        read_user_images("mine", tmp_path / "mine", ROLES["id"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.zip", "is a zip archive; unpack it"),
        ("a.tar.gz", "is a gzip archive"),
        ("a.png", "is a single picture; a folder is needed"),
        ("a.xlsx", "is a zip archive"),
        ("notes", "neither a list nor a picture"),
        ("pipe", "is a device or a pipe"),
        ("link", "is a link to nothing"),
        ("pictres", "does not exist (did you mean"),
        ("~/pictres", "does not exist (did you mean"),
        ("~nobody-of-this-name/pictures", "does not exist"),
        ("pictures/deeper/still", "does not exist"),
        ("x" * 300, "does not exist"),
        ("x/" * 3000, "does not exist"),
        ("pictures\0", "does not exist"),
    ],
)
def test_what_is_given_as_folder_and_is_none(tmp_path, monkeypatch, name, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    paint(tmp_path, "pictures/1.png", "a.png")
    for archive in ("a.zip", "a.xlsx"):
        (tmp_path / archive).write_bytes(b"PK\3\4" + bytes(30))
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(30))
    (tmp_path / "notes").write_text("notes")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    output, status = download(tmp_path / "out", "far", name if name[0] == "~" else tmp_path / name)
    assert status == 1 and words in output and "sets.mine.folder" in output, output
    assert "did you mean" not in output or str(tmp_path / "pictures") in output


def test_a_relative_folder_is_named_in_full(tmp_path, monkeypatch):
    """`dvc exp run --temp` runs in a copy, where a relative path leads elsewhere."""
    monkeypatch.chdir(tmp_path)
    output, status = download(tmp_path / "out", "far", "pictures")
    assert status == 1 and f"'{tmp_path}/pictures' does not exist" in output
    assert "a relative path starts in the folder of the run" in output


def test_a_folder_may_be_called_like_a_list(tmp_path):
    paint(tmp_path, "mine.csv/1.png")
    output, status = download(tmp_path / "out", "far", tmp_path / "mine.csv")
    assert status == 0, output
    assert what_is(tmp_path / "mine.csv") == "is a folder"


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"a\r\nb.png", b"\x1b[2J\x1b]0;x\x07.png", b"=cmd.png"])
def test_names_reach_the_terminal_without_orders(tmp_path, name):
    path = tmp_path / "mine" / os.fsdecode(name)
    path.parent.mkdir()
    path.write_bytes(b"no picture")
    output, status = download(tmp_path / "out", "far", tmp_path / "mine")
    assert status == 1 and "cannot be read" in output
    assert output.count("\n") == 1 and output[:-1].isprintable()
    Image.new("L", (16, 16)).save(path)
    assert download(tmp_path / "out", "far", tmp_path / "mine")[1] == 0
    Path(path.parent / "b.png").write_bytes(b"")
    assert download(tmp_path / "out", "far", tmp_path / "mine", skip_unreadable=True)[1] == 0
