"""Whether classifiers tell how a picture was stored: AUROC of ID test images against copies of other ones.

    python -m benchmarks.provenance scratch/studies/cifar10-cpu/outliers_joint/data

The folder holds sets/cifar10 and models/*.safetensors; every classifier among them is asked. Half of the ID
test images stay as they are, the others are stored anew, by Pillow: as JPEG of quality 75, enlarged to 64
pixels and shrunk again, or all of it, which is how a picture of Tiny ImageNet comes to 32 pixels. What is
shown keeps its class, so 50 is what a detector of content has. "Unchanged" is the other half as it is. Energy
and MSP, 95 % intervals by DeLong. Ten seconds of one core for each model of the study.
"""

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from benchmarks.resizing import by, each, jpeg
from sslood.core.batches import batches
from sslood.core.files import load_tensors
from sslood.nets.inference.extract import extract
from sslood.nets.networks.files import load_model
from sslood.ood.measures.intervals import delong_interval
from sslood.ood.measures.metrics import ood_metrics

LARGE = (64, 64)
SCORES = {
    "energy": lambda logits: -torch.logsumexp(logits, 1),
    "msp": lambda logits: -torch.log_softmax(logits, 1).amax(1),
}


def copies(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return images uint8 [N, 3, 32, 32] as they are, and as each way of storing leaves them."""
    shrink = by(Image.Resampling.BILINEAR)

    def enlarged(picture: Image.Image) -> Image.Image:
        return picture.resize(LARGE, Image.Resampling.BICUBIC)

    return {
        "unchanged": images,
        "JPEG": each(images, jpeg),
        "enlarged": each(images, lambda picture: shrink(enlarged(picture))),
        "enlarged, JPEG": each(images, lambda picture: shrink(jpeg(enlarged(picture)))),
    }


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path) -> None:
    """Print a line per classifier and score."""
    images = load_tensors(data / "sets/cifar10.safetensors", kind="set", only=["test.images"])[0][
        "test.images"
    ]
    half = len(images) // 2
    tests = {"": images[:half], **copies(images[half:])}
    for path in sorted((data / "models").glob("*.safetensors")):
        model, card = load_model(path)
        if model.head is None:
            continue
        found = {
            name: torch.from_numpy(extract(model, batches(part, 500), mean=card.mean, std=card.std)["logits"])
            for name, part in tests.items()
        }
        for score, of in SCORES.items():
            values = {name: of(logits.double()).numpy() for name, logits in found.items()}
            known = values.pop("")
            cells = []
            for name, others in values.items():
                area, interval = ood_metrics(known, others)["auroc"], delong_interval(known, others)
                low, high = (100 * end for end in interval[-2:])
                cells.append(f"{name} {100 * area:.1f} [{low:.1f}, {high:.1f}]")
            print(f"{path.stem}, {score}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
