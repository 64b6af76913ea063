"""A folder of 10,000 JPEG pictures of 64 px to one uint8 array of 32 px, against torchvision.

    python -m benchmarks.folder

Both sides read the same files (in the page cache after the first round) and end with the same pixels:
shorter side to 32 by Pillow's antialiased bilinear filter, centre crop. The peers are the loops that
repositories of the field use: torchvision's ImageFolder with Resize, CenterCrop and PILToTensor, read
by a plain loop, and by a DataLoader of one worker. Takes about two minutes on two cores.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from sslood.data.sets.convert import convert
from sslood.data.sets.tree import tree

COUNT, SIDE, SIZE, ROUNDS = 10_000, 64, 32, 5


def make(folder: Path) -> None:
    """Write COUNT patches of scikit-learn's two photographs, quality 90, in ten class folders."""
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        photograph = photographs[number % 2]
        top, left = (rng.integers(length - SIDE) for length in photograph.shape[:2])
        place = folder / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        patch = np.ascontiguousarray(photograph[top : top + SIDE, left : left + SIDE])
        Image.fromarray(patch).save(place / f"{number:05}.jpg", quality=90)


def ours(folder: Path) -> np.ndarray:
    return convert(tree({"x": folder}, "test", {}).images, SIZE, 3, "benchmark")


def _peer(folder: Path) -> ImageFolder:
    chain = [Resize(SIZE, InterpolationMode.BILINEAR), CenterCrop(SIZE), PILToTensor()]
    return ImageFolder(folder, Compose(chain))


def loop(folder: Path) -> np.ndarray:
    return torch.stack([image for image, _ in _peer(folder)]).numpy()


def worker(folder: Path) -> np.ndarray:
    loader = torch.utils.data.DataLoader(_peer(folder), batch_size=256, num_workers=1)
    return torch.cat([images for images, _ in loader]).numpy()


def seconds(run: Callable[[Path], np.ndarray], folder: Path) -> tuple[float, float]:
    """Return (seconds on the clock, seconds of CPU time over all processes)."""
    begin, used = time.perf_counter(), _cpu()
    run(folder)
    return time.perf_counter() - begin, _cpu() - used


def _cpu() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        if not np.array_equal(ours(folder), loop(folder)):
            sys.exit("the two sides differ in pixels: the times would compare nothing")
        rounds = np.array([[seconds(run, folder) for run in (ours, loop, worker)] for _ in range(ROUNDS)])
    clock, cpu = np.median(rounds, axis=0).T  # rounds: [round, side, clock or CPU]
    for row, label in enumerate(("ours", "ImageFolder loop", "ImageFolder, 1 worker")):
        print(
            f"{label:22} median {clock[row]:6.2f} s, {COUNT / clock[row]:7,.0f} images/s, "
            f"CPU time {1e6 * cpu[row] / COUNT:4.0f} us an image (n = {ROUNDS})"
        )
    for label, place in (("loop", 1), ("1 worker", 2)):
        ratios = rounds[:, place] / rounds[:, 0]
        low, high = ratios[:, 0].min(), ratios[:, 0].max()
        print(
            f"ratio to {label:9} median {np.median(ratios[:, 0]):.2f}, {low:.2f} to {high:.2f}; "
            f"by CPU time {np.median(ratios[:, 1]):.2f}"
        )


if __name__ == "__main__":
    main()
