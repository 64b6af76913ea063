"""Near duplicates of 2,000 pictures among 20,000: hash and confirm, against comparing every pair.

    python -m benchmarks.overlap

The peer correlates the same edges of every pair, as they are and mirrored, by matrix products; it knows no
shifts, which would cost it another factor of 25. A tenth of the pictures are copies, half of them brighter,
half moved by a pixel. The patches of two photographs overlap and hold much even sky, so neither side finds
all of them. Takes about a minute on two cores.
"""

import statistics
import time

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from sslood.auditing.overlap import AuditSettings, edges, index_images, overlap

REFERENCES, TESTS, COPIES, ROUNDS = 20_000, 2_000, 200, 3
SETTINGS = AuditSettings(radius=32, correlation=0.8)


def patches(places: np.ndarray) -> np.ndarray:
    """Return uint8 [N, 3, 32, 32]: two photographs at (which, top, left, side), box-averaged to 32 pixels."""
    photographs = load_sample_images().images
    found = np.empty((len(places), 32, 32, 3), np.uint8)
    for row, (which, top, left, side) in enumerate(places):
        patch = Image.fromarray(
            np.ascontiguousarray(photographs[which][top : top + side, left : left + side])
        )
        found[row] = np.asarray(patch.resize((32, 32), Image.Resampling.BOX))
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2))


def make() -> tuple[np.ndarray, np.ndarray]:
    """Return (tests, references); the first COPIES tests are changed copies of the first references."""
    random = np.random.default_rng(0)
    top, left = random.integers(2, 424 - 128, REFERENCES), random.integers(2, 636 - 128, REFERENCES)
    places = np.stack([random.integers(0, 2, REFERENCES), top, left, random.integers(40, 128, REFERENCES)], 1)
    moved = places[:COPIES] + (0, 2, 2, 0)
    references = patches(places)
    copies = patches(moved)
    copies[::2] = (references[:COPIES:2] * 0.7 + 50).astype(np.uint8)
    others = random.integers(0, 256, (TESTS - COPIES, 3, 32, 32), np.uint8)
    half = len(others) // 2
    others[:half] = patches(places[-half:])[:, ::-1, ::-1]  # upside down: real pictures, no copies
    return np.concatenate([copies, others]), references


def ours(tests: np.ndarray, references: np.ndarray) -> np.ndarray:
    found = overlap(index_images("tests", tests), index_images("references", references), SETTINGS)
    return np.isin(np.arange(COPIES), found.position)


def every_pair(tests: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return which of the COPIES correlate by SETTINGS.correlation with some reference."""
    best = np.zeros(len(tests), np.float32)
    for start in range(0, len(references), 4096):
        part = _unit(references[start : start + 4096]).T
        for images in (tests, tests[:, :, :, ::-1]):
            np.maximum(best, (_unit(images) @ part).max(1), out=best)
    return best[:COPIES] >= SETTINGS.correlation


def _unit(images: np.ndarray) -> np.ndarray:
    rows = edges(images).reshape(len(images), -1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def main() -> None:
    tests, references = make()
    rounds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        mine = ours(tests, references)
        middle = time.perf_counter()
        peers = every_pair(tests, references)
        rounds.append((middle - begin, time.perf_counter() - middle))
    for label, place, hits in (("hash and confirm", 0, mine), ("every pair, no shifts", 1, peers)):
        times = [one[place] for one in rounds]
        print(f"{label:22} median {statistics.median(times):6.2f} s, finds {hits.sum()} of {COPIES} copies")
    ratios = sorted(peer / own for own, peer in rounds)
    print(f"ratio median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f} (n = {ROUNDS})")


if __name__ == "__main__":
    main()
