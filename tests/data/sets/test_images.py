"""The one chain against Pillow used directly, and the formats of pictures."""

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from sslood.core.errors import InputError
from sslood.data.sets.convert import convert
from sslood.data.sets.images import chain_text, read_image, resize, to_array

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 48), (48, 65), (8, 8), (33, 32), (500, 20)])
def test_chain_is_pillows_bilinear_and_centre(height, width):
    image = Image.fromarray(picture(height, width))
    short = min(height, width)
    shape = (max(32, round(width * 32 / short)), max(32, round(height * 32 / short)))
    big = np.asarray(
        image.resize(shape, Image.Resampling.BILINEAR) if short != 32 or height != width else image
    )
    top, left = (big.shape[0] - 32) // 2, (big.shape[1] - 32) // 2
    assert np.array_equal(to_array(image, 32, 3), big[top : top + 32, left : left + 32].transpose(2, 0, 1))


def test_right_size_is_untouched():
    array = picture(32, 32)
    assert np.array_equal(np.asarray(resize(Image.fromarray(array), 32)), array)
    assert np.array_equal(convert(array[None], 32, 3, "x")[0], array.transpose(2, 0, 1))


def test_grey_is_itu_r_601():
    array = picture(16, 16)
    grey = to_array(Image.fromarray(array), 16, 1)[0]
    expected = array @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected).max() <= 1
    assert "601" in chain_text(16, 1)


def test_antialiased_reduction_averages():
    """A checkerboard of single pixels becomes plain grey; without antialiasing it stays black and white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = to_array(Image.fromarray(board.astype(np.uint8)), 8, 1)
    assert np.abs(small.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    Image.new("RGB", (20, 10), (200, 100, 50)).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (20, 10)
    assert np.abs(np.asarray(image).astype(int) - (200, 100, 50)).max() <= 4


def test_exif_rotation(tmp_path):
    array = np.zeros((8, 16), np.uint8)
    array[:, 12:] = 255  # right edge light
    image = Image.fromarray(array)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(read_image(tmp_path / "turned.png"))
    assert np.array_equal(upright, np.rot90(array, -1))


def test_palette_alpha_and_bilevel(tmp_path):
    Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4).save(tmp_path / "palette.png")
    assert np.asarray(read_image(tmp_path / "palette.png"))[0, 0].tolist() == [10, 200, 30]
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(read_image(tmp_path / "clear.png"))[0, 0].tolist() == [255, 255, 255]
    clear = Image.new("P", (4, 4), 1)
    clear.putpalette([0, 0, 0, 9, 9, 9])
    clear.save(tmp_path / "clear_palette.png", transparency=1)
    assert np.asarray(read_image(tmp_path / "clear_palette.png"))[0, 0].tolist() == [255, 255, 255]
    Image.new("1", (4, 4), 1).save(tmp_path / "bilevel.png")
    assert np.asarray(read_image(tmp_path / "bilevel.png")).max() == 255
    Image.new("LA", (4, 4), (40, 255)).save(tmp_path / "grey_alpha.png")
    assert to_array(read_image(tmp_path / "grey_alpha.png"), 4, 1).max() == 40


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_is_scaled_not_clipped(tmp_path, suffix):
    wide = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(wide).save(tmp_path / f"wide{suffix}")
    assert np.array_equal(np.asarray(read_image(tmp_path / f"wide{suffix}")).ravel(), np.arange(256))


def test_unreadable_pictures_are_named(tmp_path):
    Image.fromarray(picture(64, 64)).save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "short.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("short.png", "text.png", "empty.jpg"):
        with pytest.raises(InputError, match=name):
            convert([tmp_path / "good.png", tmp_path / name], 16, 3, "x")


def test_too_many_pixels_are_named(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr("sslood.data.sets.bounds._FEW", 100)
    monkeypatch.setattr("sslood.data.sets.bounds.pixel_limit", lambda: 1000)
    with pytest.raises(InputError, match="bomb.png"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(("height", "width"), [(64, 48), (48, 65), (40, 40), (32, 32), (33, 200)])
@pytest.mark.parametrize(
    ("filter", "mode"), [("bicubic", "center"), ("bilinear", "center"), ("bicubic", "squash")]
)
def test_resizing_beyond_the_crop_is_what_timm_does(height, width, filter, mode):
    """Its evaluation crops 32 pixels out of 40; where sides are rounded, ours may lie one pixel off."""
    image = Image.fromarray(picture(height, width))
    theirs = create_transform(
        (3, 32, 32), interpolation=filter, crop_pct=0.8, crop_mode=mode, mean=(0, 0, 0), std=(1, 1, 1)
    )
    expected = (theirs(image) * 255).round().byte().numpy()
    square = "squash" if mode == "squash" else "crop"
    ours = to_array(image, 32, 3, square, filter, 40)
    assert np.array_equal(ours, expected)
    assert f"{filter} filter, centre crop 32x32; untouched where already 40x40" in chain_text(
        32, 3, square, filter, 40
    )
