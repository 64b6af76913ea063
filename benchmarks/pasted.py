"""Where in the picture: heat maps against the boxes of pasted objects, on photographs.

    SSLOOD_DATA_MIRROR=MIRROR python -m benchmarks.pasted
    python -m benchmarks.pasted --figure docs/maps.jpg    # the picture of the docs, which needs no mirror

Into photographs of hands, and of rooms, a square of another photograph is pasted, of a quarter to two fifths
of the side, at a random place. Prints the pixel AUROC over all pictures with a bootstrap interval over
pictures, the mean AUROC of a picture, and the share of pictures whose hottest patch lies in the box; the same
of the last layer alone, for comparison; and seconds. The network is EfficientNet-lite0. Takes three minutes
on one core.
"""

import os
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.metrics import roc_auc_score

from sslood.core.seeding import numpy_stream
from sslood.data.sets.convert import Chain
from sslood.data.sets.images import from_array, to_array
from sslood.deploy.maps import reading
from sslood.deploy.maps.drawing import enlarged, overlaid
from sslood.deploy.maps.patches import fit_patches
from sslood.deploy.pictures import chain_of, read_pictures
from sslood.nets.adopting.pretrained import open_pretrained
from sslood.nets.networks.files import restore_model

NORMAL = {"hands": "sign-digits", "rooms": "houses"}
FIT, HELDOUT, TEST = 200, 60, 100
DRAWS = 500


def pictures(mirror: Path, name: str, count: int, chain) -> np.ndarray:
    """Return uint8 [count, 3, size, size] of the photographs of a folder, drawn by a seed."""
    files = sorted(path for path in (mirror / "photos" / name).rglob("*") if path.is_file())
    files = [files[place] for place in numpy_stream(0, "pasted", name).permutation(len(files))[:count]]
    return np.concatenate([images for _, images in read_pictures(files, chain)])


def paste(images: np.ndarray, things: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the images with a thing in each, and bool [N, size, size], where it is."""
    rng, size = numpy_stream(0, "pasted", "places"), images.shape[-1]
    images, boxes = images.copy(), np.zeros((len(images), size, size), bool)
    for image, box, thing in zip(images, boxes, things, strict=True):
        side = int(rng.integers(size // 4, 2 * size // 5))
        y, x = rng.integers(0, size - side, 2)
        square = to_array(from_array(np.ascontiguousarray(thing.transpose(1, 2, 0))), side, 3)
        image[:, y : y + side, x : x + side] = square
        box[y : y + side, x : x + side] = True
    return images, boxes


def pixel_auroc(boxes: np.ndarray, heat: np.ndarray) -> float:
    """Return the AUROC of the pixels of all pictures together."""
    return float(roc_auc_score(boxes.ravel(), heat.ravel()))


def cuts(picture: Image.Image, count: int, side: int, stream: str) -> np.ndarray:
    """Return uint8 [count, 3, side, side]: random parts of a photograph."""
    rng = numpy_stream(0, "pasted", stream)
    images = np.empty((count, 3, side, side), np.uint8)
    for image in images:
        own = int(rng.integers(3 * side // 4, min(2 * side, *picture.size)))
        left, top = (int(rng.integers(0, length - own + 1)) for length in picture.size)
        image[:] = to_array(picture.crop((left, top, left + own, top + own)), side, 3)
    return images


def draw(path: Path, shown: int = 4) -> None:
    """Write parts of a photograph of a temple, three with parts of one of a flower, and their heat maps."""
    arrays, card = open_pretrained("efficientnet-lite0", set_name="normal", classes=["normal"])
    metadata = card.metadata()
    model, chain = restore_model(arrays, metadata, card.name), chain_of(metadata)
    china, flower = (Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower"))
    own = cuts(china, FIT + HELDOUT + shown, chain.size, "china")
    train, heldout, rest = np.split(own, [FIT, FIT + HELDOUT])
    images, _ = paste(rest, cuts(flower, shown, chain.size, "flower"))
    images[0] = rest[0]  # one stays as it is
    reader = reading.Reader(model, metadata)
    patches = fit_patches(reader, np.array_split(train, 10), FIT, np.array_split(heldout, 4), seed=0)
    heat, gap = patches.heat(reader(images)[1]), 8
    step = chain.size + gap
    page = Image.new("RGB", (shown * step - gap, 2 * step - gap), "white")
    for place, (image, one) in enumerate(zip(images, heat, strict=True)):
        picture = from_array(np.ascontiguousarray(image.transpose(1, 2, 0)))
        page.paste(picture, (place * step, 0))
        page.paste(overlaid(picture, one, Chain(chain.size, 3)), (place * step, step))
    page.save(path, quality=85)


@click.command()
@click.option("--figure", type=click.Path(path_type=Path), help="Write the picture of the docs, and end.")
def main(figure: Path | None) -> None:
    if figure is not None:
        draw(figure)
        return
    mirror = Path(os.environ.get("SSLOOD_DATA_MIRROR", ""))
    if not (mirror / "photos").is_dir():
        print("pasted: set SSLOOD_DATA_MIRROR to a mirror with photos (docs/data.md)")
        return
    torch.set_num_threads(1)
    arrays, card = open_pretrained("efficientnet-lite0", set_name="normal", classes=["normal"])
    metadata = card.metadata()
    model, chain = restore_model(arrays, metadata, card.name), chain_of(metadata)
    things = pictures(mirror, "imagenet-samples", TEST, chain)
    for name, folder in NORMAL.items():
        own = pictures(mirror, folder, FIT + HELDOUT + TEST, chain)
        train, heldout, rest = np.split(own, [FIT, FIT + HELDOUT])
        images, boxes = paste(rest, things)
        for layers in (3, 1):
            reading.LAYERS = layers
            reader = reading.Reader(model, metadata)
            start = time.perf_counter()
            patches = fit_patches(reader, np.array_split(train, 10), FIT, np.array_split(heldout, 4), seed=0)
            fitted = time.perf_counter()
            parts = [patches.heat(reader(part)[1]) for part in np.array_split(images, 8)]
            scored = time.perf_counter()
            heat = np.stack([enlarged(one, chain.size, chain.size) for one in np.concatenate(parts)])
            say(f"{name}, {layers} layers" if layers > 1 else f"{name}, the last layer alone", boxes, heat)
            seconds = f"{fitted - start:.1f} s to fit, {(scored - fitted) / len(images):.3f} s a picture"
            print(f"  {seconds}", flush=True)


def say(what: str, boxes: np.ndarray, heat: np.ndarray) -> None:
    """Print one row."""
    each = np.array([roc_auc_score(box.ravel(), one.ravel()) for box, one in zip(boxes, heat, strict=True)])
    peaks = np.array([box.flat[one.argmax()] for box, one in zip(boxes, heat, strict=True)])
    rng = numpy_stream(0, "pasted", "bootstrap")
    small = boxes[:, ::8, ::8], heat[:, ::8, ::8]  # whose AUROC is the same to 0.002
    draws = [rng.integers(0, len(boxes), len(boxes)) for _ in range(DRAWS)]
    low, high = np.quantile([pixel_auroc(small[0][rows], small[1][rows]) for rows in draws], [0.025, 0.975])
    print(
        f"{what}: pixel AUROC {pixel_auroc(boxes, heat):.3f} ({low:.3f} to {high:.3f}), of one picture "
        f"{each.mean():.3f}; hottest patch in the box {peaks.mean():.0%} (n = {len(boxes)})"
    )


if __name__ == "__main__":
    main()
