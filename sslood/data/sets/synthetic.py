"""Sets that need no download: letters, photo patches, blobs and noise."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sslood.data.sets.images import to_array

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
PHOTOS = ("china", "flower")
_INK = [255 * (value > 127) for value in range(256)]  # grey edges to a bitmap
_FLAT = 10.0  # grey levels; a patch of plain sky shows nothing


def package_folder(package: str, inside: str) -> Path:
    """Return a folder of an installed package without importing it (its import would cost a second)."""
    return Path(find_spec(package).origin).parent / inside


def letters(
    count: int, size: int, channels: int, raster: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return (images uint8 [count, channels, size, size], labels [count] into LETTERS).

    Light strokes on black as digits have, drawn as a bitmap of four times `raster` pixels, turned by up
    to 10 degrees, fitted into the square, and counted in blocks of 4x4. That is how the publishers of
    the digits made theirs, so with `raster` of the ID set neither sharpness nor levels tell them apart.
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
    return images, labels


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


def photos(count: int, size: int, channels: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (images uint8 [count, channels, size, size], labels [count] into PHOTOS).

    Square patches, their sides log-uniform from max(size, 32) pixels to the photograph's height, at a
    random place; patches without content (every channel's standard deviation below 10 grey levels) are
    drawn again.
    """
    folder = package_folder("sklearn", "datasets/images")
    pictures = [Image.open(folder / f"{name}.jpg").convert("RGB") for name in PHOTOS]
    images = np.empty((count, channels, size, size), np.uint8)
    labels = np.arange(count) % len(PHOTOS)
    for index, label in enumerate(labels):
        picture = pictures[label]
        longest = min(picture.size)
        shortest = min(max(size, 32), longest)
        while True:
            side = round(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
            left, top = (int(rng.integers(length - side + 1)) for length in picture.size)
            images[index] = to_array(picture.crop((left, top, left + side, top + side)), size, channels)
            if images[index].std((1, 2)).max() >= _FLAT:
                break
    return images, labels


def blobs(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: Bernoulli(0.7) pixels, blurred with sigma 1.5 pixels
    over height and width only, and set to 0 below 0.75 (Hendrycks et al. 2019; SSD's blobs)."""
    from scipy.ndimage import gaussian_filter  # not above: it takes a tenth of a second

    coins = (rng.random((count, channels, size, size)) < 0.7).astype(np.float32)
    blurred = gaussian_filter(coins, sigma=(0, 0, 1.5, 1.5), mode="nearest", truncate=4.0)
    blurred[blurred < 0.75] = 0.0
    return np.rint(blurred * 255).astype(np.uint8)


def gaussian(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: normal, mean 0.5, standard deviation 0.25, clipped."""
    noise = rng.normal(0.5, 0.25, (count, channels, size, size))
    return np.rint(np.clip(noise, 0, 1) * 255).astype(np.uint8)


def uniform(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: independent, uniform on 0..255."""
    return rng.integers(0, 256, (count, channels, size, size), np.uint8)


def rademacher(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: 0 or 255, a fair coin each."""
    return rng.integers(0, 2, (count, channels, size, size), np.uint8) * np.uint8(255)


NOISES = {"blobs": blobs, "gaussian": gaussian, "uniform": uniform, "rademacher": rademacher}
