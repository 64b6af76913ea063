"""What decoders say: kept with the picture that it is about, also by threads, and not printed without."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.data.sets import convert as module
from sslood.data.sets.convert import convert
from sslood.data.sets.images import ODD, read_image
from sslood.data.sets.notices import libtiff_heard, listening
from tests.data.pictures import chunk, write


def odd_jpeg(path):
    """A JPEG picture whose EXIF says that it goes on after its end."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    Image.new("RGB", (16, 16), (9, 9, 9)).save(path, exif=exif)
    return path


def odd_tiff(path):
    """A fax whose code words are damaged: libtiff complains on stderr, and goes on."""
    rows = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(bool)
    Image.fromarray(rows).save(path, compression="group4")
    content = bytearray(path.read_bytes())
    content[300:340] = bytes(255 - byte for byte in content[300:340])
    return write(path, bytes(content))


def test_the_picture_is_named_with_what_is_odd_about_it(tmp_path, capfd):
    plain = tmp_path / "plain.png"
    Image.new("L", (16, 16)).save(plain)
    jpeg, tiff = odd_jpeg(tmp_path / "odd.jpg"), odd_tiff(tmp_path / "odd.tif")
    for _ in range(2):  # each time, and not once per program
        remarks: list = []
        assert len(convert([plain, jpeg, plain, tiff], 16, 1, "x", remarks=remarks)) == 4
        assert [(row, kind) for row, (kind, _) in remarks] == [(1, ODD), (3, ODD)]
        assert "Tag data larger than file" in remarks[0][1][1] or "Corrupt EXIF" in remarks[0][1][1]
        assert "Fax" in remarks[1][1][1] and "\n" not in remarks[1][1][1]
    assert capfd.readouterr() == ("", "")


def test_processes_bring_it_back(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(module, "_MANY", 1)
    odd_jpeg(tmp_path / "odd.jpg")
    paths = [tmp_path / f"{number}.jpg" for number in range(300)]
    for number, path in enumerate(paths):
        path.symlink_to(tmp_path / "odd.jpg") if number == 270 else Image.new("L", (8, 8)).save(path)
    remarks: list = []
    convert(paths, 8, 1, "x", remarks=remarks)
    assert [row for row, _ in remarks] == [270] and capfd.readouterr().err == ""


def test_unreadable_tiff_is_one_sentence(tmp_path, capfd):
    path = odd_tiff(tmp_path / "odd.tif")
    path.write_bytes(path.read_bytes()[:310])
    with pytest.raises(InputError, match=r"odd\.tif: cannot be read \("):
        convert([path], 16, 1, "x")
    assert capfd.readouterr() == ("", "")


def test_warnings_of_others_are_theirs(tmp_path):
    """While one thread reads a picture, a warning of another is shown as ever, and filters come back."""
    before = (list(warnings.filters), warnings.showwarning)
    with pytest.warns(UserWarning, match="mine"), listening() as said:
        thread = threading.Thread(target=lambda: warnings.warn("mine", UserWarning, stacklevel=1))
        thread.start()
        thread.join()
    assert said == [] and (list(warnings.filters), warnings.showwarning) == before
    with ThreadPoolExecutor(8) as pool:
        paths = [odd_jpeg(tmp_path / f"{number}.jpg") for number in range(40)]
        notes: list[list] = [[] for _ in paths]
        list(pool.map(lambda path, note: read_image(path, remarks=note), paths, notes))
    assert all(len(note) == 1 for note in notes)
    assert (list(warnings.filters), warnings.showwarning) == before


def test_a_progress_bar_goes_on(capfd):
    with listening() as said, libtiff_heard():
        os.write(2, b"\rx: converting: 40%|####\nTIFFFetch: no such tag.\n")
    assert said == ["TIFFFetch: no such tag."]
    assert capfd.readouterr().err == "\rx: converting: 40%|####\n"


def test_broken_exif_does_not_lose_the_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("L", (4, 4), 7).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk(b"eXIf", b"MM\0*") + content[33:])
    monkeypatch.setattr(Image.Image, "getexif", lambda self: 1 / 0)
    remarks: list = []
    assert np.asarray(read_image(path, remarks=remarks)).max() == 7
    assert "its EXIF cannot be read" in remarks[0][1]
