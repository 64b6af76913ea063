"""Small pictures for the pages, and which images mislead a detector most."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

PIXELATED = 64  # pixels of the longer side up to which a picture is enlarged as squares, not smoothed
SIDE = 64  # of the pictures of `misleading`
ALARMS = 0.05
_HUFFMAN_ONLY = 2  # zlib's strategy whose output does not depend on how fast a processor finds repetitions


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URL; `pixelated` says how to enlarge it."""

    url: str
    pixelated: bool


def thumbnail(picture: Image.Image, side: int) -> Thumbnail:
    """Return an RGB or grey picture shrunk to at most `side` pixels: a PNG as it is, or a JPEG if shrunk."""
    pixelated, shrunk = max(picture.size) <= PIXELATED, max(picture.size) > side
    if not shrunk:
        return Thumbnail(png(picture), pixelated)
    content = io.BytesIO()
    shape = [max(1, round(length * side / max(picture.size))) for length in picture.size]
    picture = picture.resize((shape[0], shape[1]), Image.Resampling.LANCZOS, reducing_gap=2.0)
    picture.save(content, "jpeg", quality=85)
    return Thumbnail(_url("jpeg", content), pixelated)


def png(picture: Image.Image) -> str:
    """Return a picture as it is as a data URL, the same bytes on every machine."""
    content = io.BytesIO()
    picture.save(content, "png", compress_type=_HUFFMAN_ONLY)
    return _url("png", content)


def _url(kind: str, content: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


@dataclass(frozen=True)
class Picture:
    """An image that misleads: its name, the share of ID images that score at least as high, and whether
    that puts it on the wrong side of the threshold."""

    name: str
    share: float
    wrong: bool
    thumbnail: Thumbnail


def misleading(
    scores: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], id_name: str, count: int = 12
) -> dict[str, Sequence[Picture]]:
    """Return {set: the `count` images that mislead the detector most, worst first}.

    `scores` maps the ID test set and every OOD set to [N], larger = more OOD; `images` maps them to uint8
    [N, C, H, W] in the same order. Of the ID set these are the highest scores, of the others the lowest.
    The threshold is the one with 5 % false alarms.
    """
    inside = np.sort(scores[id_name])
    chosen: dict[str, Sequence[Picture]] = {}
    for name, values in scores.items():
        is_id = name == id_name
        order = np.argsort(-values if is_id else values, kind="stable")[:count]
        shares = 1 - np.searchsorted(inside, values[order], side="left") / len(inside)
        chosen[name] = [
            Picture(
                f"{name} {place}",
                share,
                (share <= ALARMS) == is_id,
                thumbnail(_picture(images[name][place]), SIDE),
            )
            for place, share in zip(order.tolist(), shares.tolist(), strict=True)
        ]
    return chosen


def _picture(image: np.ndarray) -> Image.Image:
    """Return a uint8 [1 or 3, H, W] image as a picture."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
