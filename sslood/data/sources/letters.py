"""Latin letters that cannot be read as a digit, rendered from the text fonts that matplotlib ships."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sslood.data.sets.images import to_array
from sslood.data.sets.source import Drawing, DrawnSource, package_folder

# Left out because a digit can be read into them, upright or in a careless hand:
# O o D Q C c (0), I i l L J j T t f r (1, 7), Z z (2), S s (5), b G (6), B (8), g q a e y Y (9, 6, 4).
LETTERS = "AEFHKMNPRUVWXdhkmnpuvwx"
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
_INK = [255 * (value > 127) for value in range(256)]  # grey edges to a bitmap


def letters(count: int, size: int, channels: int, raster: int, rng: np.random.Generator) -> Drawing:
    """Return (images uint8 [count, channels, size, size], labels [count] into LETTERS, fonts and raster).

    Light strokes on black as digits have, drawn as a bitmap of four times `raster` pixels, turned by up
    to 10 degrees, fitted into the square, and counted in blocks of 4x4. That is how the publishers of
    the digits made theirs, so with the raster of the ID set neither sharpness nor levels give them away.
    """
    folder = package_folder("matplotlib", "mpl-data/fonts/ttf")
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 48) for name in FONTS]
    images = np.empty((count, channels, size, size), np.uint8)
    labels = rng.permutation(np.arange(count) % len(LETTERS))
    for index, label in enumerate(labels):
        font, angle = fonts[rng.integers(len(fonts))], rng.uniform(-10, 10)
        cells = letter(LETTERS[label], font, angle, rng.uniform(0.85, 1.0), 4 * raster)
        grey = np.rint(cells.reshape(raster, 4, raster, 4).mean((1, 3)) * 255).astype(np.uint8)
        images[index] = to_array(Image.fromarray(grey), size, channels)
    return images, labels, {"fonts": list(FONTS), "raster": raster}


def letter(character: str, font: ImageFont.FreeTypeFont, angle: float, fill: float, side: int) -> np.ndarray:
    """Return one character as a bitmap [side, side] of 0 and 1, its longer side `fill` of the square."""
    middle = round(1.2 * font.size)  # room for the widest letter, turned
    canvas = Image.new("L", (2 * middle, 2 * middle))
    ImageDraw.Draw(canvas).text((middle, middle), character, 255, font, anchor="mm")
    canvas = canvas.rotate(angle, Image.Resampling.BILINEAR).point(_INK)
    canvas = canvas.crop(canvas.getbbox())
    scale = fill * side / max(canvas.size)
    shape = [max(1, round(length * scale)) for length in canvas.size]
    canvas = canvas.resize(shape, Image.Resampling.BILINEAR)
    square = Image.new("L", (side, side))
    square.paste(canvas, ((side - shape[0]) // 2, (side - shape[1]) // 2))
    return (np.asarray(square) > 127).astype(np.float64)


SOURCE = DrawnSource(
    licence="Bitstream Vera / DejaVu licence, SIL OFL 1.1 (STIX), Knuth licence (Computer Modern)",
    citation="DejaVu Fonts 2.37; STIX Fonts; D. Knuth, Computer Modern (BaKoMa)",
    draw=letters,
    classes=tuple(LETTERS),
    takes=("raster",),
)
