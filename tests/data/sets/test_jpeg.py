"""The quick way for JPEG files against Pillow: the same bytes, or Pillow itself."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from simplejpeg import encode_jpeg
from sklearn.datasets import load_sample_images

from sslood.core.errors import InputError
from sslood.data.sets.convert import convert
from sslood.data.sets.images import read_image, to_array
from sslood.data.sets.jpeg import decode_plain

PHOTO = load_sample_images().images[0][100:233, 200:375]  # odd sides: 133 x 175
NOISE = np.random.default_rng(0).integers(0, 256, (37, 29, 3), np.uint8)


def jpeg(array: np.ndarray, mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [1, 25, 50, 75, 90, 95, 100])
def test_same_bytes_as_pillow(quality, progressive):
    for array, mode, subsampling in itertools.product((PHOTO, NOISE), ("RGB", "L"), (0, 1, 2)):
        options = {"quality": quality, "progressive": progressive, "subsampling": subsampling}
        content = jpeg(array, mode, **options)
        found = decode_plain(content)
        assert found.dtype == np.uint8 and np.array_equal(found, pillow(content)), (mode, subsampling)


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_rarer_subsampling_and_restarts(subsampling):
    content = encode_jpeg(np.ascontiguousarray(PHOTO), 80, colorsubsampling=subsampling)
    assert np.array_equal(decode_plain(content), pillow(content))
    content = jpeg(PHOTO, restart_marker_blocks=3, optimize=True, comment=b"made here")
    assert np.array_equal(decode_plain(content), pillow(content))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 100), st.sampled_from([0, 1, 2]), st.booleans())
def test_any_shape(height, width, quality, subsampling, progressive):
    array = PHOTO[:height, :width]
    content = jpeg(array, quality=quality, subsampling=subsampling, progressive=progressive)
    assert np.array_equal(decode_plain(content), pillow(content))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("tag", ["exif", "xmp"])
def test_turned_pictures_are_left_to_pillow(tmp_path, turn, tag):
    """The camera's note, in EXIF or XMP: the file passes the chain upright, whichever way it goes."""
    exif = Image.Exif()
    exif[0x0112] = turn
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="{turn}"/></x:xmpmeta>'
    content = jpeg(PHOTO, quality=95, **({"exif": exif} if tag == "exif" else {"xmp": xmp.encode()}))
    assert decode_plain(content) is None
    (tmp_path / "a.jpg").write_bytes(content)
    pixels = pillow(content)
    how = {
        2: (0, True),
        3: (2, False),
        4: (2, True),
        5: (1, True),
        6: (-1, False),
        7: (-1, True),
        8: (1, False),
    }
    quarters, mirrored = how.get(turn, (0, False))
    upright = np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)
    expected = to_array(Image.fromarray(np.ascontiguousarray(upright)), 32, 3)
    assert np.array_equal(convert([tmp_path / "a.jpg"], 32, 3, "x")[0], expected)


def test_odd_colours_are_left_to_pillow(tmp_path):
    for number, content in enumerate((jpeg(NOISE, "CMYK"), jpeg(NOISE, keep_rgb=True))):
        assert decode_plain(content) is None
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        assert np.array_equal(convert([path], 16, 3, "x")[0], to_array(read_image(path), 16, 3))


@pytest.mark.parametrize("kind", ["cut", "empty", "header only", "flipped bits", "text", "bomb"])
def test_damage_is_judged_by_pillow_alone(tmp_path, monkeypatch, kind):
    good = jpeg(PHOTO, quality=90)
    middle = len(good) // 2
    content = {
        "cut": good[:middle],
        "empty": b"",
        "header only": good[:20],
        "flipped bits": good[:middle]
        + bytes(255 - b for b in good[middle : middle + 40])
        + good[middle + 40 :],
        "text": b"\xff\xd8\xff no picture",
        "bomb": good,
    }[kind]
    if kind == "bomb":
        monkeypatch.setattr("sslood.data.sets.bounds._FEW", 100)
        monkeypatch.setattr("sslood.data.sets.bounds.pixel_limit", lambda: 1000)
    assert decode_plain(content) is None
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    try:
        expected = to_array(read_image(path), 32, 3)
    except InputError:
        with pytest.raises(InputError, match=r"a\.jpg"):
            convert([path], 32, 3, "x")
    else:
        assert kind == "flipped bits"  # Pillow shows what is left of such a picture
        assert np.array_equal(convert([path], 32, 3, "x")[0], expected)


def test_picture_under_another_name_and_bytes_after_its_end(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(jpeg(PHOTO) + b"trailing")
    assert np.array_equal(convert([path], 32, 3, "x")[0], to_array(read_image(path), 32, 3))


def test_mixed_folder_keeps_its_order(tmp_path):
    """Shapes, formats, grey and colour in one block, among them large ones."""
    rng, paths = np.random.default_rng(0), []
    for number in range(100):
        side = 700 if number % 40 == 7 else 20 + number % 5
        array = rng.integers(0, 256, (side, 24, 3), np.uint8)
        paths.append(tmp_path / f"{number:03}.{('jpg', 'png')[number % 3 == 0]}")
        Image.fromarray(array).convert("L" if number % 7 == 0 else "RGB").save(paths[-1])
    for channels in (1, 3):
        expected = [to_array(read_image(path), 16, channels) for path in paths]
        assert np.array_equal(convert(paths, 16, channels, "x"), expected)


def test_real_photographs(mirror):
    """600 files of Tiny ImageNet, as published: photographs of many makers, some of them grey."""
    paths = sorted((mirror / "tiny-imagenet-200/val/images").glob("*.JPEG"))[:600]
    contents = [path.read_bytes() for path in paths]
    found = [decode_plain(content) for content in contents]
    assert len(paths) == 600 and all(array is not None for array in found)
    assert all(np.array_equal(*pair) for pair in zip(found, map(pillow, contents), strict=True))
    assert {array.shape for array in found} == {(64, 64), (64, 64, 3)}
    expected = [to_array(read_image(path), 32, 3) for path in paths]
    assert np.array_equal(convert(paths, 32, 3, "x"), expected)
