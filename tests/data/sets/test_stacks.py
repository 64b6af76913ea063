"""Pictures of one shape together against each alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from sslood.data.sets import stacks
from sslood.data.sets.images import to_array
from sslood.data.sets.stacks import to_arrays

PHOTOS = np.stack([image[100:228, 200:296] for image in load_sample_images().images])  # 128 x 96


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.sampled_from([1, 3]), st.booleans())
def test_stack_gets_what_each_picture_gets(height, width, size, channels, grey):
    rng = np.random.default_rng(height + width)
    stack = rng.integers(0, 256, (3, height, width) if grey else (3, height, width, 3), np.uint8)
    expected = [to_array(Image.fromarray(picture), size, channels) for picture in stack]
    assert np.array_equal(to_arrays(stack, size, channels), expected)


@pytest.mark.parametrize("size", [12, 24, 48, 96])
@pytest.mark.parametrize("turned", [False, True])
def test_photographs_to_parts_of_their_size(size, turned):
    pictures = np.ascontiguousarray(PHOTOS.swapaxes(1, 2) if turned else PHOTOS)
    for channels in (1, 3):
        expected = [to_array(Image.fromarray(picture), size, channels) for picture in pictures]
        assert np.array_equal(to_arrays(pictures, size, channels), expected)
    assert stacks._way(128, 96, size)[1] == (96 // size if size < 96 else 0)  # the quick way was taken


@pytest.mark.parametrize("way", [(None, 0), (False, 0)])
def test_should_a_pillow_of_the_future_do_it_otherwise(monkeypatch, way):
    """In neither order: pictures go one by one. With other weights: Pillow's own filter, axis by axis."""
    expected = to_arrays(PHOTOS, 48, 3)
    monkeypatch.setattr(stacks, "_way", lambda *shape: way)
    assert np.array_equal(to_arrays(PHOTOS, 48, 3), expected)


def test_the_quick_way_is_left_if_pillow_differs(monkeypatch):
    stacks._way.cache_clear()
    monkeypatch.setattr(stacks, "halved", lambda stack, *rest: np.zeros_like(stack[:, None, ::2, ::2, 0]))
    assert stacks._way(128, 96, 48) == (False, 0)
    stacks._way.cache_clear()
