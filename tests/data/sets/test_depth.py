"""Pictures of more than 8 bits: declared bits, else the range of the set, never of one picture."""

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.data.sets.convert import convert, notes_of
from sslood.data.sets.depth import common_levels
from sslood.data.sets.images import SLIVER, read_image
from tests.data.pictures import deep_png, deep_tiff, write

RAMP = np.linspace(0, 4095, 256).round().astype(np.int64).reshape(16, 16)  # 12 bits
LEVELS = np.rint(RAMP * 255 / 4095).astype(np.uint8)


def array(path, **options) -> np.ndarray:
    return np.asarray(read_image(path, **options))


def pgm(values: np.ndarray, largest: int) -> bytes:
    return b"P5 %d %d %d\n" % (*values.shape[::-1], largest) + values.astype(">u2").tobytes()


def test_declared_bits_are_the_range_of_each_picture(tmp_path):
    half = RAMP // 2  # a darker picture stays darker
    rows = "".join(format(value, "012b") for value in half.ravel())
    packed = bytes(int(rows[start : start + 8], 2) for start in range(0, len(rows), 8))
    files = {
        "a.tif": deep_tiff(half, held=12, data=packed),
        "b.png": deep_png(half, bits=12),  # as some cameras write it, at the lower end
        "c.png": deep_png(half << 4 | half >> 8, bits=12),  # as PNG wants it, moved up
        "d.pgm": pgm(half, 4095),
    }
    for name, content in files.items():
        write(tmp_path / name, content)
    expected = np.rint(half * 255 / 4095)
    for name in files:
        assert np.abs(array(tmp_path / name) - expected).max() <= 1, name
        assert np.array_equal(array(tmp_path / name, levels=(0, 65535)), array(tmp_path / name)), name


def test_undeclared_bits_are_those_of_the_set(tmp_path):
    """12 bits in files of 16: 256 levels and not 17, and one dark picture is not made light."""
    light = write(tmp_path / "light.png", deep_png(RAMP))
    dark = write(tmp_path / "dark.tif", deep_tiff(RAMP // 100))
    plain = tmp_path / "plain.png"
    Image.fromarray(LEVELS).save(plain)
    remarks: list = []
    images = convert([dark, plain, light], 16, 1, "x", remarks=remarks)
    assert np.array_equal(images[2, 0], LEVELS) and np.array_equal(images[1, 0], LEVELS)
    assert images[0].max() == round(40 * 255 / 4095)
    assert [(row, kind) for row, (kind, _) in remarks] == [(0, SLIVER)]
    (note,) = notes_of([("dark.tif", remark) for _, remark in remarks], 3)
    assert (
        note.startswith("1 of 3 pictures: a sliver")
        and "dark.tif (values 0 to 40, 1.0% of 0 to 4095)" in note
    )
    assert np.array_equal(convert([dark], 16, 1, "x")[0], array(dark, levels=(0, 255))[None])


def test_given_levels_hold_for_a_single_picture(tmp_path):
    path = write(tmp_path / "a.png", deep_png(RAMP))
    assert np.array_equal(array(path, levels=(0, 4095)), LEVELS)
    assert len(np.unique(array(path))) == 17  # of its file's full range; the remark says so
    remarks: list = []
    read_image(path, remarks=remarks)
    assert remarks == [(SLIVER, "values 0 to 4095, 6.2% of 0 to 65535")]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["png", "tiff", "tiff big-endian", "tiff deflated"])
def test_colours_of_16_bits_keep_their_low_bytes(tmp_path, kind, channels):
    """Pillow keeps the high byte alone: 17 levels of a 12 bit picture."""
    values = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    expected = np.rint(values * 255 / 4095)
    if channels == 4:
        alpha = np.full((16, 16, 1), 65535)
        alpha[:4] = 0
        values = np.concatenate([values, alpha], axis=-1)
        expected[:4] = 255
    order = ">" if "big" in kind else "<"
    content = (
        deep_png(values) if kind == "png" else deep_tiff(values, order=order, deflated="deflated" in kind)
    )
    assert np.array_equal(
        convert([write(tmp_path / "a", content)], 16, 3, "x")[0].transpose(1, 2, 0), expected
    )


def test_grey_with_alpha_of_16_bits(tmp_path):
    values = np.stack([RAMP, np.full((16, 16), 65535)], axis=-1)
    values[8:, :, 1] = 0
    expected = np.where(np.arange(16)[:, None] < 8, LEVELS, 255)
    found = convert([write(tmp_path / "a.png", deep_png(values))], 16, 3, "x")[0]
    assert np.array_equal(found, np.stack([expected] * 3))


def test_transparent_value_of_16_bits_is_white(tmp_path):
    path = write(tmp_path / "a.png", deep_png(RAMP * 16, clear=0))
    assert array(path)[0, 0] == 255 and array(path)[0, 1] == 1


def test_signed_pixels_are_taken(tmp_path):
    """Hounsfield units, -1024 to 3071, for which 13 bits are needed: 0 is a middle grey."""
    units = RAMP - 1024
    path = write(tmp_path / "a.tif", deep_tiff(units, signed=True))
    assert np.array_equal(convert([path], 16, 1, "x")[0, 0], np.rint((units + 4096) * 255 / 8191))
    assert np.array_equal(array(path, levels=(-1024, 3071)), LEVELS)
    assert np.array_equal(array(path), np.rint((units + 32768) * 255 / 65535))


def test_white_is_zero(tmp_path):
    path = write(tmp_path / "a.tif", deep_tiff(RAMP * 16, photometric=0))
    assert np.array_equal(array(path), 255 - np.rint(RAMP * 16 * 255 / 65535))


def test_a_turned_deep_picture_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((RAMP * 16).astype(np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(array(tmp_path / "a.png"), np.rot90(np.rint(RAMP * 16 / 257), -1))


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: cannot be read \(floating point pixels, .*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("extremes", "levels"),
    [
        ([(3, 7)], (0, 255)),
        ([(0, 255), (9, 256)], (0, 511)),
        ([(0, 4095), (0, 100)], (0, 4095)),
        ([(0, 4096)], (0, 8191)),
        ([(0, 65535)], (0, 65535)),
        ([(-1, 5)], (-128, 127)),
        ([(-128, 127)], (-128, 127)),
        ([(-129, 127)], (-256, 255)),
        ([(-5, 128)], (-256, 255)),
        ([(0, 3071), (-1024, 9)], (-4096, 4095)),
    ],
)
def test_levels_are_the_fewest_bits_that_hold_all(extremes, levels):
    assert common_levels(extremes) == levels
