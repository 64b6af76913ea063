"""Bounded work per file: little time and memory for what asks for much, and a limit that can be raised."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.data.sets.convert import convert
from sslood.data.sets.images import Square, read_image, to_array
from tests.data.pictures import blank_png, deep_png, write
from tests.trials.kit import call


def megabytes(*paths, size=16, square="crop") -> float:
    """Return by how much the conversion of pictures, in a process of its own, goes beyond an empty one."""
    done = call(lambda: str(len(convert(paths, size, 3, "x", square=square))))
    assert (done.status, done.output) == (0, f"{len(paths)}\n")
    return done.peak - call(lambda: "").peak


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000), (3_000_000, 2)])
@pytest.mark.parametrize("square", ["crop", "pad", "squash"])
def test_a_long_line_takes_no_memory(tmp_path, shape, square):
    path = write(tmp_path / "line.png", blank_png(*shape))
    begin = time.perf_counter()
    assert megabytes(path, size=224, square=square) < 100
    assert time.perf_counter() - begin < 5


def test_the_centre_of_a_long_line_is_what_cutting_after_enlarging_gives(monkeypatch):
    line = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 3000, 3), np.uint8))
    whole = to_array(line, 16, 3)
    monkeypatch.setattr("sslood.data.sets.images._MOST", 1)
    assert np.abs(to_array(line, 16, 3).astype(int) - whole).max() <= 1


def test_huge_pictures_are_refused_with_the_limit_and_what_raises_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = write(tmp_path / "huge.png", blank_png(14_000, 14_000, depth=1))
    with pytest.raises(InputError, match=r"huge\.png: has 196\.0 megapixels, more than the 64 .*MEGAPIXELS"):
        convert([path], 16, 1, "x")
    skipped: list[int] = []
    remarks: list = []
    assert len(convert([path], 16, 1, "x", skipped, remarks=remarks)) == 0 and skipped == [0]
    assert "196.0 megapixels" in remarks[0][1][1]
    path = write(tmp_path / "small.png", blank_png(2000, 1000))
    monkeypatch.setenv("SSLOOD_MEGAPIXELS", "1.5")
    with pytest.raises(InputError, match=r"2\.0 megapixels, more than the 1\.5"):
        convert([path], 16, 1, "x")
    monkeypatch.setenv("SSLOOD_MEGAPIXELS", "300")  # more than Pillow's own limit
    assert convert([path], 16, 1, "x").shape == (1, 1, 16, 16) and Image.MAX_IMAGE_PIXELS == 300_000_000


@pytest.mark.parametrize("text", ["0", "0.9", "-1", "nan", "inf", "many"])
def test_a_limit_that_is_none_is_named(tmp_path, monkeypatch, text):
    monkeypatch.setenv("SSLOOD_MEGAPIXELS", text)
    path = write(tmp_path / "a.png", blank_png(4, 4))
    with pytest.raises(InputError, match=f"SSLOOD_MEGAPIXELS is '{text}'; use a number"):
        convert([path], 8, 1, "x", [])


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "avif", "jpeg2000", "deep", "qoi", "gif"])
def test_formats_that_take_more_may_have_fewer_pixels(tmp_path, monkeypatch, name):
    """The weights of `bounds`, at a limit of 1 megapixel."""
    weight = {"webp": 2, "avif": 2, "jpeg2000": 3, "deep": 2, "qoi": 32}.get(name, 1)
    monkeypatch.setenv("SSLOOD_MEGAPIXELS", "1")
    for pixels, fits in ((990_000 // weight, True), (1_010_000 // weight, False)):
        out = io.BytesIO(deep_png(np.zeros((100, pixels // 100), int)) if name == "deep" else b"")
        if name != "deep":
            Image.new("RGB", (100, pixels // 100)).save(out, name)
        path = write(tmp_path / "a", out.getvalue())
        if fits:
            read_image(path)
        else:
            with pytest.raises(InputError, match=r"a: has [01]\.\d megapixels, more than the"):
                read_image(path)


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    """Each scan passes over all pixels: 2,000 of them in a few kilobytes take minutes."""
    out = io.BytesIO()
    Image.new("L", (2000, 2000)).save(out, "jpeg", progressive=True)
    content = out.getvalue()
    last = content.rindex(b"\xff\xda")
    path = write(tmp_path / "a.jpg", content[:last] + content[last:-2] * 2000 + content[-2:])
    begin = time.perf_counter()
    with pytest.raises(InputError, match=r"a\.jpg: has 2,0\d\d scans of 4\.0 megapixels, more than the 320"):
        convert([path], 16, 1, "x")
    assert time.perf_counter() - begin < 10  # all its scans take minutes
    path.write_bytes(content)
    assert convert([path], 16, 1, "x").max() == 0


def test_large_files_are_refused_unread(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"a\.png: has 1,099,512 MB, more than the 256 MB"):
        convert([tmp_path / "a.png"], 16, 3, "x")


@pytest.mark.parametrize("kind", [2, 3, 6])
def test_large_pictures_stay_below_a_gigabyte(tmp_path, kind):
    """Also with transparency, which would take four copies at once."""
    path = write(tmp_path / "a.png", blank_png(4000, 4000, kind))
    assert megabytes(path) < 4 * 16 * 2 + 100  # two copies of 16 megapixels of four bytes


def test_every_failure_of_a_decoder_is_one_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", blank_png(4, 4))
    for error in (NotImplementedError("DXGI format 93"), KeyError("x"), MemoryError(), RecursionError()):
        monkeypatch.setattr(Image, "open", lambda *args, error=error, **kwargs: (_ for _ in ()).throw(error))
        with pytest.raises(InputError, match=r"a\.png: cannot be read \(.+\); repair or remove it"):
            read_image(path)


def test_postscript_is_no_picture(tmp_path):
    """Pillow would have Ghostscript run it."""
    Image.new("L", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(InputError, match=r"a\.eps: cannot be read \(a PostScript program"):
        read_image(tmp_path / "a.eps")


def test_ways_to_a_square():
    """An object at the right end of an 8:1 picture: cut away, kept small, or kept distorted."""
    pixels = np.zeros((16, 128, 3), np.uint8)
    pixels[:, 112:] = 255
    ways: tuple[Square, ...] = ("crop", "pad", "squash")
    crop, pad, squash = (to_array(Image.fromarray(pixels), 16, 1, way)[0] for way in ways)
    assert crop.max() == 0
    assert pad[7:9, 15].min() == 255 and pad[:7].max() == 0 and pad[9:].max() == 0  # two of 16 rows
    assert squash[:, 15].min() == 255 and squash[:, :13].max() == 0
    line = Image.new("L", (1000, 1), 255)
    assert to_array(line, 16, 1, "pad")[0, 7].min() == 255  # not lost, though thinner than a pixel
    whole = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert all(np.array_equal(to_array(whole, 16, 1, way)[0], np.asarray(whole)) for way in ways)
