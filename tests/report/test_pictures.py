"""Misleading images: colour survives, large ones shrink, ties keep their order."""

import base64
import io
import re

import numpy as np
from PIL import Image

from sslood.report.pictures import SIDE, misleading


def pictures(html: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in re.findall(r"base64,([^\"]+)", html)]


def test_colours_and_sizes():
    colour = np.zeros((1, 3, 8, 8), np.uint8)
    colour[:, 0], colour[:, 1] = 200, 100
    wide = np.full((1, 1, 2 * SIDE, 4 * SIDE), 7, np.uint8)
    scores = {"id": np.zeros(1), "wide": np.zeros(1)}
    first, second = pictures(misleading(scores, {"id": colour, "wide": wide}, "id"))
    assert first.mode == "RGB" and first.size == (8, 8) and first.getpixel((3, 3)) == (200, 100, 0)
    assert second.mode == "L" and second.size == (SIDE, SIDE // 2) and second.getpixel((5, 5)) == 7


def test_equal_scores_keep_the_order_of_the_set_and_are_few():
    images = {name: np.zeros((30, 1, 2, 2), np.uint8) for name in ("id", "ood")}
    html = misleading({"id": np.zeros(30), "ood": np.zeros(30)}, images, "id", count=5)
    assert re.findall(r'alt="(\w+ \d+)"', html) == [f"{name} {n}" for name in images for n in range(5)]
    # every ID image scores at least as high as any image: none is flagged
    assert html.count('class="wrong"') == 5 and "100.0" in html
