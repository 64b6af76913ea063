"""Images that two sets share: exact duplicates, and near duplicates that a perceptual hash proposes and the
edges of the pictures confirm.

A hash alone takes pictures of one layout for copies: dark figures on white, digits on black, a ship under
an even sky. So a proposed pair must also have its edges in the same places: the correlation of the slightly
blurred gradients, at the best of small shifts, or with one picture moved and scaled to lie on the other. Even
areas do not count, whatever their share of the picture, nor do brightness, contrast and colour; and the match
must not rest on a border alone, nor be one that many other pictures nearly share.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Annotated

import numpy as np

from sslood.auditing.hashes import luminance, neighbours, perceptual_hashes
from sslood.auditing.register import blurred, registered
from sslood.core.settings import Settings, between

Progress = Callable[[int], object]  # called with a count of images after they have been compared

EXACT, NEAR = 1, 2
_PROPOSALS = 16  # per image and orientation: otherwise look-alikes of a crowded set multiply the work
_CROWD, _STANDS_OUT = 8, 1 / 4  # a duplicate differs a quarter as much as the 8th best look-alike does
_LEAST = 1 - _STANDS_OUT  # correlation of a pair that stands out, even where no other looks alike
_INNER = 0.2  # the inner three fifths, without the border, may correlate less by this much
_LOOK = 2.5  # a pair that differs up to this times as much as is allowed is registered first
_PAIRS = 64  # whose edges are compared at a time, in a core's cache
_BLOCK = 64  # images whose distances are held at a time
_EVEN = 2.0  # grey levels: where the root mean square gradient is below, nothing can be compared


@dataclass(frozen=True)
class AuditSettings(Settings):
    """The section `audit` of the params, as far as it decides what is a near duplicate."""

    radius: Annotated[
        int, between(0, 128), "maximum Hamming distance, of 128 bits, between the hashes of a candidate pair"
    ]
    correlation: Annotated[float, between(_LEAST, 1), "minimum correlation of the edges of a near duplicate"]


@dataclass(frozen=True)
class Indexed:
    """Images of one split, uint8 [N, C, H, H], with what finds them again."""

    name: str
    images: np.ndarray
    digests: list[bytes]
    hashes: np.ndarray
    mirrored: np.ndarray  # hashes of the mirror images


@dataclass(frozen=True)
class Matches:
    """The images of a test set that have a duplicate in a reference, ascending.

    position: of the image; double: that of its best duplicate in the reference; kind: EXACT or NEAR;
    correlation: of their edges, 1 for exact ones.
    """

    position: np.ndarray
    double: np.ndarray
    kind: np.ndarray
    correlation: np.ndarray


def index_images(name: str, images: np.ndarray) -> Indexed:
    """Return `images` with digests of their pixels and both hashes."""
    digests = [hashlib.sha256(image).digest() for image in np.ascontiguousarray(images)]
    return Indexed(name, images, digests, perceptual_hashes(images), perceptual_hashes(images[:, :, :, ::-1]))


def edges(images: np.ndarray) -> np.ndarray:
    """Return float32 [N, 2, s - 1, s - 1]: vertical and horizontal differences of the blurred luminance."""
    return _differences(luminance(images))


def _differences(grey: np.ndarray) -> np.ndarray:
    x = blurred(grey)
    down, right = np.diff(x, axis=1)[:, :, :-1], np.diff(x, axis=2)[:, :-1]
    return np.stack([down, right], axis=1).astype(np.float32)


def _energy(x: np.ndarray) -> np.ndarray:
    """Return prefix sums [N, s + 1, s + 1] of the squared edges [N, 2, s, s]."""
    total = np.zeros((len(x), x.shape[2] + 1, x.shape[3] + 1))
    np.cumsum(np.einsum("nchw,nchw->nhw", x, x), axis=1, out=total[:, 1:, 1:])
    np.cumsum(total[:, 1:, 1:], axis=2, out=total[:, 1:, 1:])
    return total


def _inside(total: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
    return total[:, bottom, right] - total[:, top, right] - total[:, bottom, left] + total[:, top, left]


def edge_correlation(a: np.ndarray, b: np.ndarray, shift: int, step: int = 1) -> np.ndarray:
    """Return float64 [N]: the highest cosine of a and b [N, 2, s, s] with b moved by up to `shift` pixels, in
    steps of `step`; each cosine is over what then overlaps. 0 where one of the two is even there."""
    side, best = a.shape[2], np.zeros(len(a))
    energy_a, energy_b = _energy(a), _energy(b)
    moves = range(-shift, shift + 1, max(1, step))
    for dy, dx in product(moves, moves):
        of_a = slice(max(0, dy), side + min(0, dy)), slice(max(0, dx), side + min(0, dx))
        of_b = slice(max(0, -dy), side + min(0, -dy)), slice(max(0, -dx), side + min(0, -dx))
        xy = np.einsum("nchw,nchw->n", a[:, :, *of_a], b[:, :, *of_b])
        xx, yy = _inside(energy_a, *of_a), _inside(energy_b, *of_b)
        area = (side - abs(dy)) * (side - abs(dx))
        cosine = xy / np.sqrt(np.maximum(xx, 1e-9) * np.maximum(yy, 1e-9))
        np.maximum(best, np.where(np.minimum(xx, yy) > _EVEN**2 * area, cosine, 0), out=best)
    return best


def _agreement(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """Return float64 [N]: the edge correlation at the best shift; 0 for what stays far below `threshold`."""
    shift = (a.shape[2] + 1) // 16
    found = edge_correlation(a, b, shift, step=shift)
    found[found < threshold - 0.4] = 0
    rows = np.flatnonzero(found)  # the finer steps only where they can still help
    found[rows] = edge_correlation(a[rows], b[rows], shift)
    rows = np.flatnonzero(found >= threshold)
    rim = a.shape[2] // 5
    inner = (slice(None), slice(None), slice(rim, -rim), slice(rim, -rim))
    inside = edge_correlation(a[rows][inner], b[rows][inner], shift)
    found[rows[inside < threshold - _INNER]] = 0  # all that agrees is a border around the picture
    return found


def _in_register(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return float64 [N]: the correlation of the edges of a and b, uint8 [N, C, H, H], once b lies on a.

    The lower of that over what both show and that over its inner three fifths; 0 where one is even there.
    """
    grey = luminance(a)
    view, inside = registered(grey, luminance(b))
    x, y = _differences(grey), _differences(view)
    lowest, rim = np.ones(len(a)), x.shape[2] // 5
    for cut in (0, rim):
        part = slice(cut, x.shape[2] - cut)
        seen = inside[:, None, :-1, :-1][:, :, part, part]
        p, q = x[:, :, part, part] * seen, y[:, :, part, part] * seen
        xy, xx, yy = (np.einsum("nchw,nchw->n", *pair) for pair in ((p, q), (p, p), (q, q)))
        cosine = xy / np.sqrt(np.maximum(xx, 1e-9) * np.maximum(yy, 1e-9))
        even = np.minimum(xx, yy) <= _EVEN**2 * seen.sum((1, 2, 3))
        np.minimum(lowest, np.where(even, 0, cosine + (_INNER if cut else 0)), out=lowest)
    return lowest


def _crowd(query: np.ndarray, correlation: np.ndarray, sure: float) -> np.ndarray:
    """Return for each pair the eighth best correlation among the pairs of its query, 0 if there are fewer.

    Pairs of `sure` and more are no look-alikes: a burst, or a film, may hold more than eight true doubles.
    """
    correlation = np.where(correlation >= sure, 0, correlation)
    order = np.lexsort((-correlation, query))
    ranked, first = correlation[order], np.searchsorted(query[order], query)
    last = np.searchsorted(query[order], query, side="right")
    place = first + _CROWD - 1
    return np.where(place < last, ranked[np.minimum(place, len(query) - 1)], 0)


def _near(
    images: np.ndarray, hashes: np.ndarray, reference: Indexed, settings: AuditSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 [P, 2] of position and double, float32 [P] correlation) for a few images."""
    pairs = neighbours(hashes, reference.hashes, settings.radius, _PROPOSALS)
    if not len(pairs):
        return pairs, np.zeros(0, np.float32)
    places, place = np.unique(pairs[:, 1], return_inverse=True)
    of_images, of_doubles = edges(images), edges(reference.images[places])
    parts = np.array_split(np.arange(len(pairs)), -(-len(pairs) // _PAIRS))
    correlation = np.concatenate(
        [_agreement(of_images[pairs[p, 0]], of_doubles[place[p]], settings.correlation) for p in parts]
    )
    sure = (1 + settings.correlation) / 2
    # perhaps cut or scaled otherwise: worth a closer look, with a stricter threshold
    rows = np.flatnonzero(
        (correlation < settings.correlation) & (correlation >= 1 - _LOOK * (1 - settings.correlation))
    )
    for part in np.array_split(rows, -(-len(rows) // _PAIRS)) if len(rows) else []:
        found = _in_register(images[pairs[part, 0]], reference.images[pairs[part, 1]])
        correlation[part[found >= sure]] = found[found >= sure]
    alone = 1 - correlation <= _STANDS_OUT * (1 - _crowd(pairs[:, 0], correlation, sure))
    kept = (correlation >= settings.correlation) & alone
    return pairs[kept], correlation[kept]


def _near_anywhere(
    test: Indexed, reference: Indexed, settings: AuditSettings, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs and correlations of all images of `test` and of their mirror images."""

    def of_block(start: int) -> list[tuple[np.ndarray, np.ndarray]]:
        part = slice(start, start + _BLOCK)
        images = test.images[part]
        ways = ((images, test.hashes[part]), (images[:, :, :, ::-1], test.mirrored[part]))
        found = [_near(*way, reference, settings) for way in ways]
        return [(pairs + (start, 0), correlation) for pairs, correlation in found]

    found, starts = [], range(0, len(test.images), _BLOCK)
    with ThreadPoolExecutor() as pool:  # numpy's loops leave the interpreter free; results stay in order
        for start, block in zip(starts, pool.map(of_block, starts), strict=True):
            found += block
            progress(len(test.images[start : start + _BLOCK]))
    pairs, correlations = zip(*found, strict=True)
    return np.concatenate(pairs), np.concatenate(correlations)


def overlap(
    test: Indexed, reference: Indexed, settings: AuditSettings, progress: Progress = lambda count: None
) -> Matches:
    """Return the images of `test` that have an exact or near duplicate in `reference`, with the best one.

    Exact: the same pixels. Near: a hash within `settings.radius` bits, and edges that correlate by at least
    `settings.correlation`, as they are or mirrored, at a shift of up to a sixteenth of the side; or by at
    least half way from there to 1, once one image is moved and scaled to lie on the other.
    """
    known = {digest: place for place, digest in reversed(list(enumerate(reference.digests)))}
    exact = np.array(
        [(row, known[digest]) for row, digest in enumerate(test.digests) if digest in known], np.int64
    ).reshape(-1, 2)
    pairs, correlation = _near_anywhere(test, reference, settings, progress)
    pairs = np.concatenate([exact, pairs])
    kind = np.repeat([EXACT, NEAR], [len(exact), len(correlation)])
    correlation = np.concatenate([np.ones(len(exact)), correlation])
    order = np.lexsort((pairs[:, 1], -correlation, kind, pairs[:, 0]))
    position, first = np.unique(pairs[order, 0], return_index=True)
    best = order[first]
    return Matches(position, pairs[best, 1], kind[best].astype(np.int64), correlation[best])
