"""Heat over pictures: in the place that the network sees, by pictures whose pixels say where they are."""

import numpy as np
import pytest
from PIL import Image

from sslood.data.sets.convert import Chain, converted
from sslood.deploy.maps.drawing import SIDE, UNSEEN, colours, enlarged, layer, overlaid, seen

CHAINS = [
    Chain(64, 3),
    Chain(64, 3, resize_to=80),
    Chain(64, 3, "squash"),
    Chain(64, 3, "squash", resize_to=80),
    Chain(64, 3, "pad"),
]


@pytest.mark.parametrize("chain", CHAINS, ids=str)
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (64, 64), (31, 47)])
def test_the_box_is_what_the_chain_cuts_out(chain, shape):
    """Red rises from left to right, green from top to bottom, so pixels of the square say where they were."""
    width, height = shape
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.stack([40 + 200 * x, 40 + 200 * y, np.full_like(x, 255)], axis=-1).round().astype(np.uint8)
    square = converted(pixels, chain, []).astype(float)
    box = seen(width, height, chain)
    inside = np.flatnonzero(square[2, 32] > 250), np.flatnonzero(square[2, :, 32] > 250)
    for axis, (low, high, length) in enumerate([(box.left, box.right, width), (box.top, box.bottom, height)]):
        line = square[0, 32] if axis == 0 else square[1, :, 32]
        places = inside[axis][4:-4]
        where = low + (places + 0.5) / 64 * (high - low)
        np.testing.assert_allclose((line[places] - 40) / 200 * length, where, atol=0.012 * length + 0.3)


def test_colours_rise_from_clear_to_red():
    found = colours(np.array([-5.0, 0.0, 0.5, 1.0, 7.0]))
    assert found[:2, 3].tolist() == [0, 0] and found[3].tolist() == found[4].tolist()
    assert (np.diff(found[1:4, 3]) > 0).all() and (np.diff(found[1:4, 1]) < 0).all()


def test_only_what_is_hot_is_coloured_and_only_what_is_seen_is_bright():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8))
    heat = np.full((8, 8), -0.5)
    before, cold = np.asarray(picture, float), np.asarray(overlaid(picture, heat, Chain(64, 3)), float)
    np.testing.assert_array_equal(cold[:, 20:100], before[:, 20:100])
    np.testing.assert_allclose(cold[:, :20], before[:, :20] * UNSEEN, atol=0.5)
    heat[2, 5] = 1.5
    changed = (np.asarray(overlaid(picture, heat, Chain(64, 3)), float) != cold).any(2)
    y, x = np.nonzero(changed)
    assert abs(x.mean() - (20 + 5.5 * 10)) < 1 and abs(y.mean() - 2.5 * 10) < 1
    assert x.min() >= 20 + 4 * 10 and x.max() < 20 + 7 * 10


def test_a_line_surrounds_what_one_in_a_thousand_reaches():
    grey = Image.new("L", (64, 64), 100)
    heat = np.zeros((8, 8))
    heat[3:5, 3:5] = 2
    found = np.asarray(overlaid(grey, heat, Chain(64, 1)))
    white, hot = (found == 255).all(2), enlarged(heat, 64, 64) >= 1
    assert white.any() and not white[~hot].any() and not white[32, 32]
    heat[:] = 2
    assert not (np.asarray(overlaid(grey, heat, Chain(64, 1))) == 255).any(), "the frame is no outside"


@pytest.mark.parametrize("chain", CHAINS, ids=str)
@pytest.mark.parametrize("shape", [(2000, 10), (1, 1), (1600, 1200)])
def test_maps_are_bounded_for_any_shape(chain, shape):
    found = overlaid(Image.new("RGB", shape), np.ones((3, 3)), chain)
    assert max(found.size) == min(SIDE, max(shape)) and found.mode == "RGB"


def test_the_layer_is_the_colours_alone():
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    found = np.asarray(layer(heat, 16))
    assert (
        found.shape == (16, 16, 4)
        and found[0, 0].tolist() == [205, 0, 35, 184]
        and not found[8:, 8:, 3].any()
    )
