"""Pictures of more than 8 bits: which of their values becomes black, and which white.

The rule: the significant bits that the file declares (TIFF of 9 to 15 bits, PNG's sBIT, JPEG 2000, the
largest value of PGM); else those that the set's pictures need together, a power of two (12 bit data in files
of 16 bits: 0 to 4095), or `data.bits`. Never the range of one picture: that would make dark pictures light.
Signed pixels are shifted, so that 0 becomes a middle grey, if any pixel of the set is below 0.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageFile

Levels = tuple[int, int]  # the values that become 0 and 255
_SLIVER = 8  # a picture that uses less than this part of its range is mentioned
_STRIP = 1 << 20  # pixels that are converted at a time
_SWAPPED = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}


class Undeclared(Exception):
    """A picture whose file does not say which range it uses; `extremes`: its lowest and highest value."""

    def __init__(self, extremes: Levels):
        self.extremes = extremes


@dataclass(frozen=True)
class Depth:
    """What a file says of its pixels of more than 8 bits.

    stated: the levels that it declares, or None. full: the values that its samples can have. bits: PNG's
    sBIT, 0 = none. layout: of several channels, each in two bytes, or "" for one. inverted: 0 is white.
    """

    stated: Levels | None
    full: Levels
    bits: int = 0
    layout: str = ""
    inverted: bool = False


def depth_of(image: ImageFile.ImageFile, content: bytes) -> Depth | None:
    """Return what an opened picture declares, before it is loaded; None for one of 8 bits."""
    tiles = image.tile
    raw = _rawmode(tiles[0]) if tiles else ""
    if raw[-4:-1] != ";16" and image.mode[0] != "I":
        return None
    layout = raw[:-4] if raw[:-4] in ("RGB", "RGBA", "LA") and raw[-1] in _SWAPPED else ""
    if not (layout or image.mode[0] == "I"):
        return None
    full, bits, inverted = (0, 65535), 0, False
    stated: Levels | None = None
    if image.format == "PNG":
        bits = _significant(content)
    elif image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        held = int(max(tags.get(258, (16,))))  # BitsPerSample
        signed = max(tags.get(339, (1,))) == 2  # SampleFormat
        full = (-(1 << held - 1), (1 << held - 1) - 1) if signed else (0, (1 << held) - 1)
        stated = full if held % 8 else None
        inverted = tags.get(262) == 0  # WhiteIsZero
    elif image.format == "JPEG2000":
        size = content.find(b"\xff\x4f\xff\x51") + 4
        held = (content[size + 38] & 127) + 1  # Pillow stretches what is less to 16 bits
        stated = full if held < 16 else None
    elif image.format == "PPM":
        args: Any = tiles[0][3]  # the layout, or with it the largest value, which Pillow makes 65535
        stated = full if isinstance(args, tuple) and args[-1] != 65535 else None
    elif image.mode == "I":
        full = (-(1 << 31), (1 << 31) - 1)
    return Depth(stated, full, bits, layout, inverted)


def _rawmode(tile: Any) -> str:
    """Return the name of the layout that Pillow's decoder of a tile reads."""
    args = tile[3]
    name = args[0] if isinstance(args, tuple) and args else args
    return name if isinstance(name, str) else ""


def _significant(content: bytes) -> int:
    """Return the smallest number of bits in a PNG file's sBIT chunk, 0 if it has none or they are all 16."""
    place = 8
    while place + 8 < len(content) and (name := content[place + 4 : place + 8]) != b"IDAT":
        length = int.from_bytes(content[place : place + 4])
        if name == b"sBIT" and length:
            bits = max(content[place + 8 : place + 8 + min(length, 3)])
            return bits if 0 < bits < 16 else 0
        place += 12 + length
    return 0


def common_levels(extremes: Iterable[Levels]) -> Levels:
    """Return the levels of a set: the fewest bits, at least 8, that hold the values of all its pictures."""
    lows, highs = zip(*extremes, strict=True)
    low, high = min(lows), max(highs)
    bits = max(8, high.bit_length() + (low < 0), (-low - 1).bit_length() + 1 if low < 0 else 0)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if low < 0 else (0, (1 << bits) - 1)


@dataclass
class Range:
    """The levels of one set, looked for when the first picture needs them; `found` then holds them.

    look: returns them; it passes over all pictures of the set.
    """

    look: Callable[[], Levels]
    found: Levels | None = field(default=None)

    def __call__(self) -> Levels:
        """Return the levels."""
        if self.found is None:
            self.found = self.look()
        return self.found


def eight_bits(
    planes: list[Image.Image], depth: Depth, levels: Levels | None, ask: bool
) -> tuple[Image.Image, str]:
    """Return (L, RGB or RGBA image of a loaded deeper one, a remark or "").

    planes: the image, and its `low_bytes` if it has a layout. levels: of the set; without them the file's
    full range counts, or with `ask`, Undeclared is raised.
    """
    lowest, highest, shifted = _extremes(planes, depth)
    stated = depth.stated
    if depth.bits:  # as PNG wants it, moved up to the full range; some writers leave the bits where they were
        moved = highest >= 1 << depth.bits or shifted
        stated = depth.full if moved else (0, (1 << depth.bits) - 1)
    if stated is None and levels is None and ask:
        raise Undeclared((lowest, highest))
    black, white = stated or levels or depth.full
    clear = planes[0].info.get("transparency") if planes[0].format == "PNG" else None
    out: list[np.ndarray] = []
    for values, alpha in _strips(planes, depth):
        grey = np.rint((values - float(black)) * (255 / (white - black))).clip(0, 255).astype(np.uint8)
        grey = 255 - grey if depth.inverted else grey
        if isinstance(clear, int | tuple):
            grey[(values == clear).reshape(*grey.shape[:2], -1).all(-1)] = 255
        out.append(grey if alpha is None else np.concatenate([grey, alpha[..., None]], axis=-1))
    remark = ""
    if highest - lowest < (white - black) / _SLIVER:
        share = (highest - lowest) / (white - black)
        remark = f"values {lowest} to {highest}, {share:.1%} of {black} to {white}"
    return Image.fromarray(np.concatenate(out)), remark


def low_bytes(image: ImageFile.ImageFile) -> Image.Image:
    """Return an opened picture of 16 bit colours loaded with the low byte of each value.

    Pillow's decoders give the high byte, and the other one if they are told the other order of bytes. Grey
    with alpha, of four bytes like RGBA, comes as both bytes of both.
    """
    swapped = []
    for tile in image.tile:
        raw = _rawmode(tile)
        raw = "RGBA" if raw.startswith("LA") else raw[:-1] + _SWAPPED[raw[-1]]
        args = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        swapped.append(tile._replace(args=args))
    image.tile = swapped
    image.load()
    return image


def _strips(planes: list[Image.Image], depth: Depth) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield (values int64 [h, W] or [h, W, 3], alpha uint8 [h, W] or None) from top to bottom."""
    width, height = planes[0].size
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        box = (0, top, width, min(height, top + step))
        parts = [np.asarray(plane if step >= height else plane.crop(box)) for plane in planes]
        values = parts[0].astype(np.int64)
        if not depth.layout:
            yield (values & 0xFFFFFFFF if depth.full[1] >= 1 << 31 else values), None
        elif depth.layout == "LA":
            both = parts[1].astype(np.int64)
            yield np.repeat(both[..., :1] << 8 | both[..., 1:2], 3, axis=-1), parts[1][..., 2]
        else:
            alpha = parts[0][..., 3] if values.shape[-1] == 4 else None
            yield values[..., :3] << 8 | parts[1][..., :3], alpha


def _extremes(planes: list[Image.Image], depth: Depth) -> tuple[int, int, bool]:
    """Return (lowest, highest value, whether all values are `depth.bits` bits moved up to 16)."""
    lows, highs, moved = [], [], True
    for values, _ in _strips(planes, depth):
        lows.append(int(values.min()))
        highs.append(int(values.max()))
        if depth.bits:
            rest = values & ((1 << 16 - depth.bits) - 1)
            near = 2 if depth.bits < 14 else 1  # some writers round where PNG repeats the high bits
            moved &= bool(((rest == 0) | (np.abs(rest - (values >> depth.bits)) < near)).all())
    return min(lows), max(highs), moved
