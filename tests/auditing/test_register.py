"""Pictures that were cut and scaled by known amounts are brought back; Pillow resamples."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from sslood.auditing.register import blurred, registered

PHOTO = Image.fromarray(load_sample_images().images[0]).convert("L")


def view(top: float, left: float, height: float, width: float) -> np.ndarray:
    """Return float64 [32, 32] of a part of the photograph."""
    box = (left, top, left + width, top + height)
    return np.asarray(PHOTO.resize((32, 32), Image.Resampling.BOX, box=box), np.float64)


def likeness(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return np.corrcoef(a[where], b[where])[0, 1]


# box of the second view in a square of 128: moved, larger, smaller, of another proportion
VIEWS = [(8, -6, 128, 128), (10, 8, 108, 108), (-8, -10, 148, 148), (4, 10, 128, 108), (-6, 0, 144, 120)]


@pytest.mark.parametrize("box", VIEWS)
def test_other_cuts_of_a_photograph_are_brought_into_register(box):
    places = [(20, 40), (120, 60), (180, 300), (200, 200), (100, 440), (60, 160)]
    a = np.stack([view(top, left, 128, 128) for top, left in places])
    b = np.stack([view(top + box[0], left + box[1], *box[2:]) for top, left in places])
    b = b * 0.7 + 30  # brightness and contrast are free
    found, inside = registered(a, b)
    assert inside.mean((1, 2)).min() > 0.6
    after = np.array([likeness(*one) for one in zip(a, found, inside, strict=True)])
    before = np.array([likeness(*one) for one in zip(a, b, inside, strict=True)])
    assert np.median(after) > 0.97 and (after > 0.9).sum() >= 5 and np.median(before) < 0.9


def test_what_lies_right_stays_and_even_pictures_do_no_harm():
    a = np.stack([view(100, 200, 128, 128), np.full((32, 32), 7.0), np.zeros((32, 32))])
    found, inside = registered(a, a)
    assert np.allclose(found[0], a[0], atol=1) and inside[0].mean() > 0.85
    assert np.allclose(found[1:], a[1:])


def test_pairs_do_not_see_each_other():
    a = np.stack([view(100, 200, 128, 128), view(20, 40, 128, 128)])
    b = np.stack([view(104, 206, 120, 120), view(10, 48, 140, 128)])
    together = registered(a, b)[0]
    assert np.allclose(together[1], registered(a[1:], b[1:])[0][0])


def test_blur_keeps_the_mean_of_even_pictures_and_spreads_a_point():
    assert np.allclose(blurred(np.full((1, 8, 8), 3.0), 5), 3)
    point = np.zeros((1, 9, 9))
    point[0, 4, 4] = 16
    assert blurred(point)[0, 3:6, 3:6].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
