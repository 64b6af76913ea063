"""Accuracy of a classifier by how often it looks at each test image: once, mirrored too, shifted too.

    python -m studies.run cifar10-fast       # or: make profile P=cifar10-fast && make repro
    python -m benchmarks.looks MODEL.safetensors SET.safetensors

The logits of an image, of its mirror image, and of both shifted by a pixel to the upper left and to the lower
right are summed with weights 1/2, 1/4 and 1/4, as the evaluation of arXiv:2404.00498 (section 3.5) does. What
enters at an edge is the reflection.
"""

from collections.abc import Callable
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from sslood.core.files import load_tensors
from sslood.nets.networks.files import load_model

BATCH = 500
Looks = dict[str, Tensor]


def looks(logits: Callable[[Tensor], Tensor], images: Tensor) -> Looks:
    """Return the logits [N, K] of normalised images [N, C, H, W] after one, two and six looks."""
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    upper, lower = padded[..., :height, :width], padded[..., 2 : height + 2, 2 : width + 2]
    once = logits(images)
    twice = (once + logits(images.flip(3))) / 2
    shifted = sum(logits(part) + logits(part.flip(3)) for part in (upper, lower)) / 4
    return {"once": once, "with the mirror image": twice, "and shifted": (twice + shifted) / 2}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", metavar="SET", type=click.Path(path_type=Path))
@torch.no_grad()
def main(model: Path, data: Path) -> None:
    """Print the test accuracy in % after one, two and six looks."""
    network, card = load_model(model)
    network.eval().to(memory_format=torch.channels_last)
    tensors, _ = load_tensors(data, kind="set", only=["test.images", "test.labels"])
    images, labels = torch.as_tensor(tensors["test.images"]), torch.as_tensor(tensors["test.labels"])
    mean, std = (torch.tensor(card.preprocessing[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    right: dict[str, int] = {}
    for part, known in tqdm([*zip(images.split(BATCH), labels.split(BATCH), strict=True)]):
        seen = ((part / 255 - mean) / std).to(network.dtype, memory_format=torch.channels_last)
        for name, found in looks(network, seen).items():
            right[name] = right.get(name, 0) + int((found.argmax(1) == known).sum())
    print(", ".join(f"{name} {100 * count / len(labels):.2f}" for name, count in right.items()))


if __name__ == "__main__":
    main()
