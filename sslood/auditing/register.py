"""Two pictures brought into register: the second moved and scaled, each axis by its own, to lie on the first.

Gauss-Newton on the squared difference of grey levels, with brightness and contrast free (Lucas and Kanade, An
Iterative Image Registration Technique with an Application to Stereo Vision, IJCAI 1981): first on blurred
pictures, where it converges from farther away, then on sharper ones.
"""

import numpy as np

_BLURS, _STEPS = (4, 1), 5  # passes of the blur at each level, and steps there
_FARTHEST = 0.25  # a quarter larger or smaller; moved by a quarter of half the side
_STRIDE = 0.1  # at most, in a step
_DAMPING = 1e-3


def blurred(grey: np.ndarray, passes: int = 1) -> np.ndarray:
    """Return [N, s, s] grey blurred by `passes` passes of the weights 1, 2, 1 along both axes."""
    for _ in range(passes):
        x = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
        x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
        grey = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    return grey


def registered(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (b on the grid of a, float64 [N, s, s]; which of its pixels lie inside b, bool [N, s, s]).

    a and b are grey levels, float64 [N, s, s]. Where the two show different things, the result is
    some other view of b.
    """
    count, side, _ = a.shape
    at = (2 * np.arange(side) - side + 1) / side  # -1 to 1 across the picture
    moves = np.zeros((count, 4))  # larger, moved: down; larger, moved: right
    for passes in _BLURS:
        target, source = blurred(a, passes), blurred(b, passes)
        for _ in range(_STEPS):
            moves += _step(target, source, moves, at)
            np.clip(moves, -_FARTHEST, _FARTHEST, out=moves)
    rows, columns = _places(moves, at)
    return _sampled(b, rows, columns), _inside(rows, columns)


def _places(moves: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the columns [N, s] of b, in pixels, that lie on those of a."""
    side = len(at)
    return tuple(
        (side - 1) / 2 + side / 2 * (at * (1 + moves[:, [axis]]) + moves[:, [axis + 1]]) for axis in (0, 2)
    )


def _inside(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    last = rows.shape[1] - 1
    down, right = ((place >= 0) & (place <= last) for place in (rows, columns))
    return down[:, :, None] & right[:, None, :]


def _sampled(b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return b [N, s, s] at the crossings of rows and columns [N, s], linear in between."""
    last = b.shape[1] - 1
    for place, axis in ((rows, 1), (columns, 2)):
        place = np.expand_dims(np.clip(place, 0, last), 3 - axis)
        low = np.minimum(place.astype(np.int64), last - 1)
        share = place - low
        b = np.take_along_axis(b, low, axis) * (1 - share) + np.take_along_axis(b, low + 1, axis) * share
    return b


def _step(target: np.ndarray, source: np.ndarray, moves: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the change of moves [N, 4] that one Gauss-Newton step asks for."""
    rows, columns = _places(moves, at)
    view = _sampled(source, rows, columns)
    half = len(at) / 2
    down = np.gradient(view, axis=1) * half
    right = np.gradient(view, axis=2) * half
    parts = (down * at[:, None], down, right * at, right, np.ones_like(view), view)
    slopes = np.stack(parts, axis=-1) * _inside(rows, columns)[..., None]
    slopes = slopes.reshape(len(view), -1, len(parts))
    squares = slopes.transpose(0, 2, 1) @ slopes
    size = np.trace(squares, axis1=1, axis2=2)[:, None, None] + 1
    squares += _DAMPING * size / len(parts) * np.diag([1, 1, 1, 1, 1e-6, 1e-6])
    found = np.linalg.solve(squares, slopes.transpose(0, 2, 1) @ target.reshape(len(view), -1, 1))[..., 0]
    contrast = np.maximum(np.abs(found[:, 5:]), 0.2)
    return np.clip(found[:, :4] / contrast, -_STRIDE, _STRIDE)
