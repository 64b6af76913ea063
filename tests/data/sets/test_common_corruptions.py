"""Each common corruption against its definition, and their turns over the images."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from sslood.data.sets import common_corruptions as common
from sslood.data.sets.common_corruptions import KINDS, commonly_corrupted


def images(channels=3, count=6, side=16):
    return np.random.default_rng(1).integers(0, 256, (count, channels, side, side)) / 255


def rng():
    return np.random.default_rng(0)


def test_noise_has_the_mean_and_the_variance_of_its_kind():
    grey = np.full((40, 3, 32, 32), 0.4)
    n = grey.size
    noise = common.gaussian_noise(grey, 0.05, rng()) - grey
    assert noise.std() == pytest.approx(0.05, rel=5 / np.sqrt(2 * n))
    shot = common.shot_noise(grey, 100, rng())
    assert shot.mean() == pytest.approx(0.4, abs=5 * np.sqrt(0.4 / 100 / n))
    assert shot.var() == pytest.approx(0.4 / 100, rel=0.05), "a Poisson variable has its mean as variance"
    np.testing.assert_allclose(shot * 100, np.rint(shot * 100), atol=1e-9)
    impulse = common.impulse_noise(grey, 0.06, rng())
    for value in (0.0, 1.0):
        assert (impulse == value).mean() == pytest.approx(0.03, abs=5 * np.sqrt(0.03 / n))
    assert set(np.unique(impulse)) == {0.0, 0.4, 1.0}


def test_blur_is_of_each_channel_of_each_image():
    x = images()
    found = common.gaussian_blur(x, 0.8, rng())
    for image, blurred in zip(x, found, strict=True):
        for plane, one in zip(image, blurred, strict=True):
            np.testing.assert_allclose(one, gaussian_filter(plane, 0.8, mode="nearest"), atol=1e-12)


def test_brightness_raises_the_value_of_hsv():
    x = images(count=1, side=8)
    x[0, :, 0, 0] = 0.0
    found = common.brightness(x, 0.15, rng())[0].reshape(3, -1).T
    for before, after in zip(x[0].reshape(3, -1).T, found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(
            after, colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.15)), atol=1e-9
        )
    np.testing.assert_allclose(common.brightness(images(1), 0.1, rng()), np.minimum(images(1) + 0.1, 1))


def test_contrast_shrinks_the_distance_from_each_channels_mean():
    x = images()
    found = common.contrast(x, 0.3, rng())
    np.testing.assert_allclose(found.mean((2, 3)), x.mean((2, 3)))
    np.testing.assert_allclose(found.std((2, 3)), 0.3 * x.std((2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_and_jpeg_are_what_pillow_makes(channels):
    x = images(channels, side=20)
    box = Image.Resampling.BOX
    pixels, saved = common.pixelate(x, 0.75, rng()), common.jpeg(x, 58, rng())
    for number, image in enumerate(np.rint(x * 255).astype(np.uint8)):
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
        picture.save(file := BytesIO(), "JPEG", quality=58)
        for found, expected in (
            (pixels, picture.resize((15, 15), box).resize((20, 20), box)),
            (saved, Image.open(file)),
        ):
            whole = np.asarray(expected).reshape(20, 20, channels).transpose(2, 0, 1)
            np.testing.assert_array_equal(np.rint(found[number] * 255), whole)


@pytest.mark.parametrize("name", KINDS)
def test_a_severer_one_is_farther_from_the_image(name):
    kind, severities = KINDS[name]
    smooth = np.clip(gaussian_filter(images(count=12, side=32), (0, 0, 2, 2)) * 2 - 0.5, 0, 1)
    far = [np.sqrt(((kind(smooth, level, rng()) - smooth) ** 2).mean()) for level in severities]
    assert len(severities) == 5 and far == sorted(far) and far[0] > 0


def test_every_image_has_one_corruption_and_every_corruption_its_share():
    x = np.full((400, 1, 32, 32), 128, np.uint8)
    x[:, :, 3:9, 3:9] = 40
    found = commonly_corrupted(x, rng())
    assert found.dtype == np.uint8 and found.shape == x.shape
    levels = [127.5 + 255 * added for added in KINDS["brightness"][1]]
    for level in levels:  # ten images of each pair, and a brighter image is plain where it was
        corner = np.rint(min(level + 0.5, 255))
        assert ((found[:, 0, 0] == corner).all(1) & (found[:, 0, 5, 5] > 40)).sum() == 10
    np.testing.assert_array_equal(found, commonly_corrupted(x, rng()))
    assert (found != commonly_corrupted(x, np.random.default_rng(1))).any()
