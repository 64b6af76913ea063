"""Eight distortions of ID images: outliers to tune on and to learn from, without touching any test set.

After the validation outliers of Hendrycks, Mazeika and Dietterich, Deep Anomaly Detection with Outlier
Exposure (ICLR 2019, arXiv:1812.04606), who built them on another set's test images; here only the images
that are passed in are used. Every function takes and returns float64 [N, C, H, W] in [0, 1].
"""

import numpy as np
from PIL import Image

CITATION = "D. Hendrycks, M. Mazeika, T. Dietterich, Deep Anomaly Detection with Outlier Exposure, ICLR 2019"


def uniform_noise(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nothing of the image: independent uniform values."""
    return rng.random(images.shape)


def arithmetic_mean(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(x + x') / 2."""
    return (images + partners) / 2


def geometric_mean(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """sqrt(x x')."""
    return np.sqrt(images * partners)


def jigsaw(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """4x4 tiles in a random order (never the true one); a margin that 4 does not divide stays."""
    out = images.copy()
    tile = images.shape[2] // 4, images.shape[3] // 4
    rows, columns = ([slice(i * side, (i + 1) * side) for i in range(4)] for side in tile)
    places = [(row, column) for row in rows for column in columns]
    for image, source in zip(out, images, strict=True):
        order = np.arange(16)
        while (order == np.arange(16)).sum() > 4:
            order = rng.permutation(16)
        for place, origin in zip(places, order, strict=True):
            image[:, *place] = source[:, *places[origin]]
    return out


def speckle(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x + x n with n standard normal, clipped."""
    return np.clip(images + images * rng.standard_normal(images.shape), 0, 1)


def pixelate(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Box-shrunk to a fifth of the side (32 to 6, 16 to 3) and box-enlarged again."""
    height, width = images.shape[2:]
    small = max(2, width // 5), max(2, height // 5)
    out = np.empty_like(images)
    for target, plane in zip(out.reshape(-1, height, width), images.reshape(-1, height, width), strict=True):
        shrunk = Image.fromarray(plane.astype(np.float32)).resize(small, Image.Resampling.BOX)
        target[:] = np.asarray(shrunk.resize((width, height), Image.Resampling.BOX))
    return np.clip(out, 0, 1)


def ghost(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour: channels (R, G, B) become (mirrored G, B, R). Grey: the lighter of x and its mirror image
    moved down by a quarter, a second exposure."""
    if images.shape[1] == 3:
        return np.stack([images[:, 1, :, ::-1], images[:, 2], images[:, 0]], 1)
    return np.maximum(images, np.roll(images[..., ::-1], images.shape[2] // 4, 2))


def inversion(images: np.ndarray, partners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour: green and blue inverted. Grey: one half inverted (upper, lower, left or right, by lot)."""
    out = images.copy()
    if images.shape[1] == 3:
        out[:, 1:] = 1 - out[:, 1:]
        return out
    middle = images.shape[2] // 2
    halves = [(slice(middle), slice(None)), (slice(middle, None), slice(None))]
    halves += [(slice(None), slice(middle)), (slice(None), slice(middle, None))]
    for image, half in zip(out, rng.integers(4, size=len(out)), strict=True):
        image[:, *halves[half]] = 1 - image[:, *halves[half]]
    return out


KINDS = {
    "uniform_noise": uniform_noise,
    "arithmetic_mean": arithmetic_mean,
    "geometric_mean": geometric_mean,
    "jigsaw": jigsaw,
    "speckle": speckle,
    "pixelate": pixelate,
    "ghost": ghost,
    "inversion": inversion,
}

_OF_TWO = (arithmetic_mean, geometric_mean)


def partners_of(index: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return for every image of `index` a random image of another class: the mean of two pictures of one
    class can be a fair picture of that class. `classes` [N] must hold at least two values."""
    partner = rng.integers(len(classes), size=len(index))
    while (same := classes[partner] == classes[index]).any():
        partner[same] = rng.integers(len(classes), size=same.sum())
    return partner


def corrupt(
    images: np.ndarray, classes: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (uint8 [count, C, H, W], labels [count] into KINDS, index [count] of the image used).

    Equal shares of the eight kinds, in turn. Every image of uint8 `images` [N, C, H, W] is used once
    before one is used twice; the two images of a pair are of different `classes` [N]. Where there is but one,
    the kinds that mix two images are left out.
    """
    number = len(images)
    index = np.concatenate([rng.permutation(number) for _ in range(-(-count // number))])[:count]
    mixes = len(np.unique(classes)) > 1
    partner = partners_of(index, classes, rng) if mixes else index
    possible = [at for at, kind in enumerate(KINDS.values()) if mixes or kind not in _OF_TWO]
    labels = np.resize(possible, count)
    out = np.empty((count, *images.shape[1:]), np.uint8)
    for label, kind in enumerate(KINDS.values()):
        rows = np.flatnonzero(labels == label)
        corrupted = kind(images[index[rows]] / 255, images[partner[rows]] / 255, rng)
        out[rows] = np.rint(corrupted * 255).astype(np.uint8)
    return out, labels, index
