"""Perceptual hashes against scipy's DCT and Pillow's box filter, and the search against every distance."""

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.spatial.distance import cdist

from sslood.auditing.hashes import luminance, neighbours, perceptual_hashes


def images(count, size, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), np.uint8)


def bits(words):
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1), axis=1)


def test_luminance_is_pillows_grey_and_large_pictures_are_box_averaged():
    found = luminance(images(3, 64))
    for image, grey in zip(images(3, 64), found, strict=True):
        channels = [
            Image.fromarray(plane).convert("F").resize((32, 32), Image.Resampling.BOX) for plane in image
        ]
        red, green, blue = (np.asarray(channel, np.float64) for channel in channels)
        assert np.allclose(grey, 0.299 * red + 0.587 * green + 0.114 * blue, atol=1e-3)
    whole = np.asarray(Image.fromarray(images(1, 20)[0].transpose(1, 2, 0)).convert("L"), np.float64)
    assert np.abs(luminance(images(1, 20))[0] - whole).max() <= 1
    assert np.array_equal(luminance(images(2, 16, 1)), images(2, 16, 1)[:, 0])


@pytest.mark.parametrize("size", [16, 28, 32])
def test_the_first_word_is_the_median_of_scipys_dct(size):
    batch = images(20, size)
    found = bits(perceptual_hashes(batch)[:, :1])
    for image, hashed in zip(luminance(batch), found, strict=True):
        waves = dctn(image, norm="ortho")[:8, :8].ravel().round(2)
        assert np.array_equal(hashed[1:], waves[1:] > np.median(waves[1:])) and not hashed[0]


def test_the_second_word_says_where_it_brightens_to_the_right():
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, (1, 1, 32, 1))
    found = bits(
        perceptual_hashes(np.concatenate([ramp, ramp[..., ::-1], ramp.transpose(0, 1, 3, 2)]))[:, 1:]
    )
    assert found.sum(1).tolist() == [64, 0, 0]


def test_hashes_depend_neither_on_blocks_nor_on_brightness():
    batch = images(2100, 16, 1) // 2
    whole = perceptual_hashes(batch)
    assert np.array_equal(whole[2040:], perceptual_hashes(batch[2040:]))
    assert np.array_equal(whole, perceptual_hashes(batch + 100))
    assert perceptual_hashes(batch[:0]).shape == (0, 2)


def clustered(count, seed):
    """Random hashes, half of them within a few bits of four centres."""
    random = np.random.default_rng(seed)
    words = random.integers(0, 2**64, (count, 2), np.uint64)
    centres = np.random.default_rng(9).integers(0, 2**64, (4, 2), np.uint64)
    flips = np.bitwise_and.reduce(random.integers(0, 2**64, (3, count // 2, 2), np.uint64))
    words[: count // 2] = centres[random.integers(0, 4, count // 2)] ^ flips
    return words


@pytest.mark.parametrize("radius", [0, 24, 34, 128])
def test_the_search_finds_what_all_distances_say(radius):
    queries, references = clustered(40, 1), clustered(5000, 2)  # more references than one tile
    queries[0] = references[4321]
    distance = np.rint(128 * cdist(bits(queries), bits(references), "hamming"))
    expected = {(q, r) for q, r in zip(*np.nonzero(distance <= radius), strict=True)}
    found = neighbours(queries, references, radius, len(references))
    assert {tuple(pair) for pair in found} == expected and len(found) == len(expected)
    assert (0, 4321) in expected


def test_of_many_references_the_nearest_are_kept():
    queries, references = clustered(10, 3), clustered(2000, 4)
    distance = np.rint(128 * cdist(bits(queries), bits(references), "hamming"))
    found = neighbours(queries, references, 60, 5)
    for query in range(10):
        kept = found[found[:, 0] == query, 1]
        within = np.sort(distance[query][distance[query] <= 60])[:5]
        assert np.array_equal(np.sort(distance[query, kept]), within)
    assert len(neighbours(queries, references[:0], 60, 5)) == 0
