"""Whether classifiers tell how a picture was stored: AUROC of ID test images against copies of other ones.

    python -m benchmarks.provenance scratch/studies/cifar10-cpu/outliers/data

The folder holds sets/cifar10 and models/*.safetensors; every classifier among them is asked. Half of the ID
test images stay as they are, the others are stored anew, by Pillow: as JPEG of quality 75, enlarged to 64
pixels and shrunk again, or all of it, which is how a picture of Tiny ImageNet comes to 32 pixels. What is
shown keeps its class, so 50 is what a detector of content has. "Unchanged" is the other half as it is. Energy
and MSP, 95 % intervals by DeLong. Ten seconds of one core for each model of the study.
"""

from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.findings import interval
from benchmarks.resizing import by, each, jpeg
from sslood.core.batches import batches
from sslood.core.files import load_tensors
from sslood.nets.inference.extract import extract
from sslood.nets.networks.files import load_model
from sslood.ood.kit.outputs import Outputs
from sslood.ood.measures.comparison import Scores
from sslood.ood.posthoc.energy import Energy
from sslood.ood.posthoc.msp import MSP

LARGE = (64, 64)
DETECTORS = {"energy": Energy(), "msp": MSP()}


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
    tensors, _ = load_tensors(data / "sets/cifar10.safetensors", kind="set", only=["test.images"])
    known, others = np.array_split(tensors["test.images"], 2)
    tests = {"": known, **copies(others)}
    for path in sorted((data / "models").glob("*.safetensors")):
        model, card = load_model(path)
        if model.head is None:
            continue
        found = {
            name: Outputs(name, **extract(model, batches(part, 500), mean=card.mean, std=card.std))
            for name, part in tests.items()
        }
        inside = found.pop("")
        for score, detector in DETECTORS.items():
            detector.fit(inside, inside)  # which learns nothing
            values = {
                name: Scores(detector.score(inside), detector.score(one)) for name, one in found.items()
            }
            cells = [f"{name} {interval(one)}" for name, one in values.items()]
            print(f"{path.stem}, {score}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
