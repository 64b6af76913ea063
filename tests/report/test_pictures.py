"""Misleading images: colours are kept, large ones shrink, ties keep their order."""

import base64
import io

import numpy as np
from PIL import Image

from sslood.report.pictures import SIDE, Thumbnail, misleading, thumbnail


def opened(small: Thumbnail) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(small.url.split("base64,")[1])))


def test_colours_and_sizes():
    colour = np.zeros((1, 3, 8, 8), np.uint8)
    colour[:, 0], colour[:, 1] = 200, 100
    wide = np.full((1, 1, 2 * SIDE, 4 * SIDE), 7, np.uint8)
    scores = {"id": np.zeros(1), "wide": np.zeros(1)}
    chosen = misleading(scores, {"id": colour, "wide": wide}, "id")
    first, second = (opened(chosen[name][0].thumbnail) for name in ("id", "wide"))
    assert first.mode == "RGB" and first.size == (8, 8) and first.getpixel((3, 3)) == (200, 100, 0)
    assert second.mode == "L" and second.size == (SIDE, SIDE // 2) and second.getpixel((5, 5)) == 7


def test_equal_scores_keep_the_order_of_the_set_and_are_few():
    images = {name: np.zeros((30, 1, 2, 2), np.uint8) for name in ("id", "ood")}
    chosen = misleading({"id": np.zeros(30), "ood": np.zeros(30)}, images, "id", count=5)
    for name, wrong in (("id", False), ("ood", True)):
        # every ID image scores at least as high as any image: none is flagged
        expected = [(f"{name} {n}", 1.0, wrong) for n in range(5)]
        assert [(one.name, one.share, one.wrong) for one in chosen[name]] == expected


def test_a_thumbnail_is_the_picture_itself_unless_it_is_shrunk():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    picture = Image.fromarray(pixels)
    same = thumbnail(picture, 64)
    assert same.pixelated and same.url.startswith("data:image/png;")
    assert np.array_equal(np.asarray(opened(same)), pixels)
    small = thumbnail(picture.resize((640, 320)), 100)
    assert (
        not small.pixelated and small.url.startswith("data:image/jpeg;") and opened(small).size == (100, 50)
    )
