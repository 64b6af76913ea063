"""Heat maps over pictures: where the network looked, in colours that mean the same on every picture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from sslood.data.sets.convert import Chain
from sslood.data.sets.images import frame

SIDE = 512  # pixels of the longer side of a picture with its map
# value, red, green, blue, opacity: clear at the median of ID, yellow, orange, and red from 1 on
RAMP = np.array(
    [
        (0.0, 255, 230, 80, 0.0),
        (0.5, 255, 200, 40, 0.35),
        (0.8, 250, 120, 20, 0.55),
        (1.0, 205, 0, 35, 0.72),
    ]
)
UNSEEN = 0.45  # brightness of what the network does not see
_LINE = (255, 255, 255)  # around what is at 1 or above


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of a picture, from the upper left corner; it may reach beyond the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def scaled(self, factor: float) -> "Box":
        """Return the same on a picture `factor` times as large."""
        return Box(self.left * factor, self.top * factor, self.right * factor, self.bottom * factor)


def seen(width: int, height: int, chain: Chain) -> Box:
    """Return which part of a picture of this size the network sees after `chain`."""
    size, side = chain.size, chain.resize_to or chain.size
    if chain.square == "squash":
        x, y = (side - size) // 2 * width / side, (side - size) // 2 * height / side
        return Box(x, y, x + size * width / side, y + size * height / side)
    shape, left, top = frame(width, height, size, chain.square, chain.resize_to)
    across, down = width / shape[0], height / shape[1]
    if chain.square == "pad":
        left, top = -left, -top
    return Box(left * across, top * down, (left + size) * across, (top + size) * down)


def colours(heat: np.ndarray) -> np.ndarray:
    """Return red, green, blue in [0, 255] and opacity in [0, 1] of heat [...]: float64 [..., 4]."""
    return np.stack([np.interp(heat, RAMP[:, 0], column) for column in RAMP.T[1:]], axis=-1)


def enlarged(heat: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return heat [h, w] at other sizes, interpolated between the middles of its patches: float32."""
    picture = Image.fromarray(np.asarray(heat, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def layer(heat: np.ndarray, side: int = 32) -> Image.Image:
    """Return the colours of heat [h, w] alone, as a square RGBA picture to lay over another."""
    found = colours(enlarged(heat, side, side))
    found[..., 3] *= 255
    return Image.fromarray(found.round().astype(np.uint8), "RGBA")


def overlaid(picture: Image.Image, heat: np.ndarray, chain: Chain) -> Image.Image:
    """Return an RGB picture, at most SIDE pixels long, with heat [h, w] on the part that the network sees.

    A white line surrounds what is at 1 or above: what one patch in a thousand of ID reaches. What the network
    does not see is dark.
    """
    box = seen(*picture.size, chain)
    factor = min(1.0, SIDE / max(picture.size))
    width, height = (max(1, round(length * factor)) for length in picture.size)
    small = picture.convert("RGB")
    if (width, height) != picture.size:
        small = small.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    pixels = np.asarray(small, np.float64) * UNSEEN
    box = box.scaled(factor)
    left, top = round(box.left), round(box.top)
    across, down = max(1, round(box.right) - left), max(1, round(box.bottom) - top)
    rows, columns = slice(max(0, top), top + down), slice(max(0, left), left + across)
    part = np.asarray(small, np.float64)[rows, columns]
    values = enlarged(heat, across, down)[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]]
    found = colours(values)
    opacity = found[..., 3:]
    pixels[rows, columns] = part * (1 - opacity) + found[..., :3] * opacity
    pixels[rows, columns][_edge(values >= 1)] = _LINE
    return Image.fromarray(pixels.round().astype(np.uint8))


def _edge(inside: np.ndarray) -> np.ndarray:
    """Return which pixels of a region [h, w] touch its outside; the frame of the picture is no outside."""
    padded = np.pad(inside, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~around
