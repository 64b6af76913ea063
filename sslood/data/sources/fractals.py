"""Coloured fractals of random iterated function systems: pictures that PixMix mixes in."""

import numpy as np

from sslood.data.sets.source import noise_source

_POINTS, _SETTLE = 128, 12  # points of a picture that move at once; steps before they are drawn
_DENSITY, _LARGEST = (
    5,
    64,
)  # points drawn for each pixel; side up to which that is done, larger ones are enlarged


def fractals(count: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [count, channels, size, size]: attractors of 2 to 6 random affine maps, by the chaos game.

    A map is a rotation, two contractions and a rotation, perhaps mirrored (Anderson and Farrell, "Improving
    fractal pre-training", 2022, arXiv:2110.03091; the sum of the contractions, by which they choose systems
    of good shape, is recalled). The colours are ours: each map has one, a point blends those of the maps that
    it went through, and the brightness is the logarithm of the points in a pixel, on a coloured ground.
    """
    raster = min(size, _LARGEST)
    maps, shifts, chances = systems(count, rng)
    palette = rng.random((count, chances.shape[1], 3), np.float32)
    moves = np.concatenate((maps.reshape(count, -1, 4), shifts, palette), 2)  # of each map nine numbers
    x = y = np.zeros((count, _POINTS), np.float32)
    paint = np.full((count, _POINTS, 3), 0.5, np.float32)
    limits, rows = chances.cumsum(1)[:, None, :-1], np.arange(count)[:, None]
    drawn = []
    for step in range(_SETTLE + _DENSITY * raster**2 // _POINTS):
        move = moves[rows, (rng.random((count, _POINTS, 1), np.float32) > limits).sum(2)]
        a, b, c, d, right, down = np.moveaxis(move[..., :6], 2, 0)
        x, y = a * x + b * y + right, c * x + d * y + down
        paint = (paint + move[..., 6:]) / 2
        if step >= _SETTLE:
            drawn.append(np.concatenate((x[..., None], y[..., None], paint), 2))
    light, colour = _counted(np.concatenate(drawn, 1), raster)
    ground = 0.5 * rng.random((count, 3, 1, 1), np.float32)
    image = light * colour + (1 - light) * ground
    if channels == 1:
        image = np.einsum("nchw,c->nhw", image, (0.299, 0.587, 0.114))[:, None]
    place = np.arange(size) * raster // size
    return np.rint(image[:, :, place[:, None], place] * 255).astype(np.uint8)


def systems(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (maps [count, 6, 2, 2], shifts [count, 6, 2], chances [count, 6]) of systems of 2 to 6 maps.

    Chances are in proportion to the maps' determinants, 0 of a map that a system does not have. Every map
    shrinks: its larger singular value is below 1.
    """
    used = np.arange(6) < rng.integers(2, 7, (count, 1))
    number = used.sum(1, keepdims=True)
    # sum of s1 + 2 s2 over the maps between (5 + n) / 2 and (6 + n) / 2; s2 <= s1 < 1
    target = (5 + number + rng.random((count, 1))) / 2
    first = rng.uniform(0.4, 1.0, (count, 6)) * used
    second = first * rng.uniform(0.3, 1.0, (count, 6))
    scale = target / (first + 2 * second).sum(1, keepdims=True)
    first, second = np.minimum(first * scale, 0.95), np.minimum(second * scale, 0.9)
    turns = rng.uniform(0, 2 * np.pi, (2, count, 6))
    mirror = rng.choice((-1.0, 1.0), (count, 6))
    stretch = np.stack((first, mirror * second), -1)
    maps = (_rotations(turns[0]) * stretch[..., None, :]) @ _rotations(turns[1])
    shifts = rng.uniform(-1, 1, (count, 6, 2))
    weight = np.maximum(first * second, 0.01) * used
    chances = weight / weight.sum(1, keepdims=True)
    return maps.astype(np.float32), shifts.astype(np.float32), chances.astype(np.float32)


def _rotations(angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack((cos, -sin, sin, cos), -1).reshape(*angle.shape, 2, 2)


def _counted(drawn: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (brightness [N, 1, size, size] in [0, 1], mean colour [N, 3, size, size]) of points.

    drawn: x, y, red, green and blue of each, [N, P, 5]. What lies far out of the middle is cut off.
    """
    n, points = len(drawn), drawn[..., :2]
    low, high = np.quantile(points[:, ::8], (0.01, 0.99), 1, keepdims=True).astype(np.float32)
    cells = np.floor((points - low) / np.maximum(high - low, 1e-6) * size)
    inside = ((cells >= 0) & (cells < size)).all(2)
    picture, (column, row) = np.nonzero(inside)[0], cells[inside].astype(np.int64).T
    flat = (picture * size + row) * size + column
    total = np.bincount(flat, minlength=n * size**2)
    sums = np.stack([np.bincount(flat, channel, n * size**2) for channel in drawn[inside][:, 2:].T])
    light = np.log1p(total).reshape(n, -1)
    light /= light.max(1, keepdims=True)
    colour = (sums / np.maximum(total, 1)).reshape(3, n, size, size)
    return light.reshape(n, 1, size, size), colour.swapaxes(0, 1)


SOURCE = noise_source(
    fractals,
    "C. Anderson, R. Farrell, Improving Fractal Pre-training, WACV 2022, arXiv:2110.03091",
)
