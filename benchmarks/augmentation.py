"""Augmentation beside torchvision on PIL images: SimCLR views of CIFAR-size images on one core, in one run.

    python -m benchmarks.augmentation             # the first call compiles, which takes half a minute
    python -m benchmarks.augmentation --eager     # without compiling

Both do a random resized crop (bicubic, area 0.08 to 1), flip, colour jitter (0.8, 0.8, 0.8, 0.2) with
probability 0.8, grey with 0.2, and the normalisation. Rounds alternate, so that what else the machine does
meets all. The peer's time includes what it needs to make PIL images of an array and a batch of the views.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sslood.core.batches import normalise
from sslood.data.images.augment import AugmentSettings, apply_draws, draw

IMAGES, SIZE, ROUNDS = 512, 32, 7
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SETTINGS = AugmentSettings(
    crop_scale_min=0.08, flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grey=0.2
)


def ours(images: np.ndarray, *, compiled: bool) -> Callable[[], Tensor]:
    """Return a call that makes one view of each image with this project's code."""
    tensor, generator = torch.from_numpy(images), torch.Generator().manual_seed(0)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)

    def view(draws: Tensor) -> Tensor:
        return normalise(apply_draws(tensor, draws, SETTINGS), mean, std)

    views = torch.compile(view, fullgraph=True) if compiled else view
    return lambda: views(draw(len(tensor), generator))


def torchvisions(images: np.ndarray) -> Callable[[], Tensor]:
    """Return a call that makes one view of each image with torchvision's transforms of PIL images."""
    from PIL import Image
    from torchvision import transforms as t

    bicubic = t.InterpolationMode.BICUBIC
    jitter = t.ColorJitter(0.8, 0.8, 0.8, 0.2)
    steps = [t.RandomResizedCrop(SIZE, (0.08, 1.0), interpolation=bicubic), t.RandomApply([jitter], 0.8)]
    steps += [t.RandomGrayscale(0.2), t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(MEAN, STD)]
    chain = t.Compose(steps)
    arrays = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return lambda: torch.stack([chain(Image.fromarray(array)) for array in arrays])


def run(rounds: int = ROUNDS, *, compiled: bool = True) -> list[dict[str, object]]:
    """Return a row per form of ours: name, images, rounds, ours and peer in ms, ratio."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIZE, SIZE), np.uint8)
    makers = {"torchvision+PIL": torchvisions(images), "eager": ours(images, compiled=False)}
    if compiled:
        makers["compiled"] = ours(images, compiled=True)
    times: dict[str, list[float]] = {name: [] for name in makers}
    for round_ in range(rounds + 1):  # the first warms up, and compiles
        for name, make in makers.items():
            start = time.perf_counter()
            make()
            if round_:
                times[name].append(time.perf_counter() - start)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    peer = medians.pop("torchvision+PIL")
    shape = {"peer": "torchvision+PIL", "images": IMAGES, "rounds": rounds}
    return [
        {"name": f"augmentation, {name}", **shape, "ours_ms": mine, "peer_ms": peer, "ratio": peer / mine}
        for name, mine in medians.items()
    ]


def main() -> None:
    torch.set_num_threads(1)
    print(f"augmentation of {IMAGES} images of {SIZE}x{SIZE}, one core, median of {ROUNDS} rounds")
    for row in run(compiled="--eager" not in sys.argv):
        print(
            f"{row['name']:24} ours {row['ours_ms']:8.1f} ms  torchvision+PIL {row['peer_ms']:8.1f} ms  "
            f"ratio {row['ratio']:.1f}"
        )


if __name__ == "__main__":
    main()
