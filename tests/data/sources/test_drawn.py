"""Statistics of noise and blobs against closed forms; letters and patches by what they must not be."""

import numpy as np
import pytest
from PIL import ImageFont
from scipy.stats import norm

from sslood.data.sets.source import DrawnSource, all_sources, package_folder
from sslood.data.sources import letters, photos
from sslood.data.sources.blobs import blobs
from sslood.data.sources.fractals import fractals, systems
from sslood.data.sources.gaussian import gaussian
from sslood.data.sources.rademacher import rademacher
from sslood.data.sources.uniform import uniform

DRAWN = {name: source for name, source in all_sources().items() if isinstance(source, DrawnSource)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_uniform():
    images = uniform(200, 32, 3, rng())
    assert images.shape == (200, 3, 32, 32) and images.dtype == np.uint8
    counts = np.bincount(images.ravel(), minlength=256)
    expected = images.size / 256
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_rademacher():
    images = rademacher(200, 32, 1, rng())
    assert set(np.unique(images)) == {0, 255}
    assert abs((images == 255).mean() - 0.5) < 5 * 0.5 / np.sqrt(images.size)


def test_gaussian_is_a_clipped_normal():
    images = gaussian(200, 32, 3, rng()) / 255
    tolerance = 5 / np.sqrt(images.size)
    assert abs(images.mean() - 0.5) < 0.25 * tolerance
    assert abs((images == 0).mean() - norm.cdf(0.5 / 255, 0.5, 0.25)) < tolerance
    # E (x - 1/2)^2 of a normal clipped at two standard deviations
    inside = 1 - 2 * norm.sf(2) - 2 * 2 * norm.pdf(2)
    assert abs(images.var() - 0.25**2 * (inside + 4 * 2 * norm.sf(2))) < 1e-3


def test_blobs_are_thresholded_and_blurred_over_space_only():
    images = blobs(400, 32, 3, rng())
    assert images[(images > 0)].min() == round(0.75 * 255)
    # share above the threshold: a mean of Bernoulli(0.7) with Gaussian weights w, variance p (1 - p) sum w^2
    axis = np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2)
    axis /= axis.sum()
    deviation = np.sqrt(0.7 * 0.3) * (axis**2).sum()
    middle = images[:, :, 8:24, 8:24] > 0
    assert abs(middle.mean() - norm.sf(0.75, 0.7, deviation)) < 0.02
    flat = middle.transpose(1, 0, 2, 3).reshape(3, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(3)).max() < 0.02  # channels independent
    left, right = middle[..., :-1].ravel(), middle[..., 1:].ravel()
    assert np.corrcoef(left, right)[0, 1] > 0.6  # neighbours are not


def test_maps_of_fractals_shrink_and_are_chosen_by_their_area():
    maps, shifts, chances = systems(300, rng())
    used = chances > 0
    assert set(used.sum(1)) == set(range(2, 7)) and np.allclose(chances.sum(1), 1, atol=1e-6)
    values = np.linalg.svd(maps.astype(np.float64), compute_uv=False)
    assert values.max() <= 0.95 + 1e-6  # contractions: there is an attractor
    sums = ((values[..., 0] + 2 * values[..., 1]) * used).sum(1) - used.sum(1) / 2
    assert (sums < 3 + 1e-5).all() and (sums > 2.5 - 1e-5).mean() > 0.8  # less where a map had to be cut
    areas = np.abs(np.linalg.det(maps)) * used
    expected = np.maximum(areas, 0.01 * used)
    assert np.allclose(chances, expected / expected.sum(1, keepdims=True), atol=1e-4)


def test_fractals_are_colourful_shapes_at_every_size():
    for size, channels in ((12, 1), (32, 3), (96, 3)):
        images = fractals(20, size, channels, rng())
        assert images.shape == (20, channels, size, size)
        assert (images.std((1, 2, 3)) > 8).mean() >= 0.9  # a few have the grey of their ground
        flat = images.reshape(20, -1).astype(float)
        assert np.triu(np.corrcoef(flat), 1).max() < 0.95  # no two alike
    left, right = images[..., :-1].ravel(), images[..., 1:].ravel()
    neighbours = np.corrcoef(left, right)
    assert neighbours[0, 1] > 0.5


def test_letters_leave_out_whatever_reads_as_a_digit():
    assert not set(letters.LETTERS) & set("OoDQIilLjJZzSsBbGgqyY")
    images, labels, _ = letters.letters(230, 16, 1, 8, rng())
    assert images.shape == (230, 1, 16, 16)
    assert np.bincount(labels, minlength=len(letters.LETTERS)).tolist() == [10] * len(letters.LETTERS)
    assert (images.max((1, 2, 3)) > 100).all() and (images.mean((1, 2, 3)) < 160).all()


def test_letters_have_the_digits_seventeen_levels_at_their_own_raster():
    images, *_ = letters.letters(100, 8, 1, 8, rng())
    assert set(np.unique(images)) <= {round(level * 255 / 16) for level in range(17)}


def test_every_font_draws_every_letter_differently():
    folder = package_folder("matplotlib", "mpl-data/fonts/ttf")
    for name in letters.FONTS:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 64)
        cells = {letters.letter(character, font, 0.0, 1.0, 32).tobytes() for character in letters.LETTERS}
        assert len(cells) == len(letters.LETTERS), name  # a missing glyph draws the same box


@pytest.mark.parametrize("size", [16, 64])
def test_photos_have_content(size):
    images, labels, _ = photos.photos(40, size, 3, size, rng())
    assert images.shape == (40, 3, size, size)
    assert (images.std((2, 3)).max(1) >= 10).all() and np.bincount(labels).tolist() == [20, 20]


def test_same_seed_same_bytes():
    assert len(DRAWN) >= 6
    for source in DRAWN.values():
        first, again, other = (source.draw(9, 16, 1, 8, rng(seed)) for seed in (3, 3, 4))
        assert all(np.array_equal(*pair) for pair in zip(first[:2], again[:2], strict=True))
        assert first[2] == again[2] and not np.array_equal(first[0], other[0])
        assert first[1].max() < max(1, len(source.classes)) and len(first[1]) == 9


def test_noise_is_drawn_in_blocks_of_one_stream():
    images, labels, recorded = DRAWN["uniform"].draw(300, 8, 1, 8, rng())
    assert np.array_equal(images, uniform(300, 8, 1, rng()))
    assert (labels == -1).all() and recorded == {}
