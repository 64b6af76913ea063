"""What the way of resizing does to the AUROC of two networks on CIFAR-10, and what ODIN gains from test sets.

    SSLOOD_DATA_MIRROR=… python -m benchmarks.resizing --data data          # some minutes of one core
    SSLOOD_DATA_MIRROR=… python -m benchmarks.resizing --data data odin     # ODIN alone

--data and --folder as for `findings`, whose detectors and settings these are. Parts:

- chains: Tiny ImageNet's validation pictures shrunk from 64 to 32 pixels by several chains, and as JPEG: the
  pictures are the same, so every difference of AUROC is the chain's (paired DeLong intervals). The CIFAR-10
  images are all of the test set
- odin: ODIN's step and temperature chosen on each test set instead of on ID validation and corruptions (the
  first network)
"""

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import click
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.findings import (
    KNOWN,
    SETS,
    Candidates,
    Run,
    auroc,
    command,
    detector_of,
    interval,
    optimism,
    points,
    reversed_pairs,
    show,
    significant,
)
from benchmarks.learning import image_set
from sslood.auditing.roughness import artefact_scores
from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.core.seeding import numpy_stream
from sslood.nets.inference.extract import extract
from sslood.nets.networks.files import load_model
from sslood.ood.kit.outputs import Outputs, part_of
from sslood.ood.measures.comparison import Scores, delong_test
from sslood.ood.network.odin import ODIN, ODINSettings
from sslood.views.opened import open_model

CHECKED = 50  # pictures whose stored features are compared
FEW = "msp energy gen react ash mahalanobis rmds vim fdbd nci knn".split()
TEMPERATURES = (1.0, 1000.0)
Change = Callable[[Image.Image], Image.Image]


def images_of(run: Run, name: str, split: str = "test") -> np.ndarray:
    """Return uint8 [N, C, H, W] of a set file."""
    key = f"{split}.images"
    return load_tensors(run.data / f"sets/{name}.safetensors", kind="set", only=[key])[0][key]


def every(images: np.ndarray, count: int) -> slice:
    """Return a slice of `count` images spread over a set, or of all."""
    step = max(1, len(images) // count)
    return slice(0, min(len(images), step * count), step)


def each(images: np.ndarray, change: Change) -> np.ndarray:
    """Return uint8 [N, 3, H, W] after a change of every picture."""
    pictures = (Image.fromarray(image.transpose(1, 2, 0)) for image in images)
    return np.stack([np.asarray(change(picture)).transpose(2, 0, 1) for picture in pictures])


def by(kind: Image.Resampling) -> Change:
    """Return the resize to 32 pixels by a filter of Pillow."""
    return lambda picture: picture.resize((32, 32), kind)


def jpeg(picture: Image.Image) -> Image.Image:
    """Return a picture as it comes out of a JPEG file of quality 75, Pillow's default."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=75)
    return Image.open(content).convert("RGB")


def chains_of(large: np.ndarray) -> dict[str, np.ndarray]:
    """Return pictures [N, 3, 64, 64] by every chain, [N, 3, 32, 32]; ours is the first."""
    ours = each(large, by(Image.Resampling.BILINEAR))
    return {
        "ours": ours,
        "bicubic, antialiased": each(large, by(Image.Resampling.BICUBIC)),
        "mean of 2 x 2": each(large, by(Image.Resampling.BOX)),
        "every second pixel": each(large, by(Image.Resampling.NEAREST)),
        "ours, JPEG": each(ours, jpeg),
    }


@dataclass(frozen=True)
class Stored:
    """The outputs of a model for new pictures, and those that its embeddings hold."""

    run: Run

    def made(self, name: str, images: np.ndarray) -> Outputs:
        """Return the outputs for pictures uint8 [N, 3, H, W]."""
        model, card = load_model(self.run.data / f"models/{self.run.model}-0.safetensors")
        arrays = extract(model, batches(images, 500), mean=card.mean, std=card.std)
        known = self.run.file.outputs(KNOWN, "test")
        return Outputs(name, **arrays, head=known.head, classes=known.classes)

    def there(self, name: str, images: np.ndarray, rows: slice) -> Outputs:
        """Return the stored outputs for some test pictures of a set; InputError if another model's."""
        stored = part_of(self.run.file.outputs(name, "test"), rows)
        again = self.made(name, images[rows][:CHECKED]).need("features")
        if not np.allclose(again, stored.need("features")[:CHECKED], atol=1e-3):
            raise InputError(
                f"{self.run.data}: sets and embeddings of {self.run.model} differ; embed them again"
            )
        return stored


def scores_of(run: Run, outputs: Mapping[str, Outputs]) -> dict[str, dict[str, np.ndarray]]:
    """Return detector -> name -> scores of outputs, by all detectors at their chosen settings."""
    train, validation = (run.file.outputs(KNOWN, split) for split in ("train", "validation"))
    found = {}
    for one in run.detectors():
        detector = detector_of(one.name, **one.grid[one.own]).fit(train, validation)
        found[one.name] = {name: detector.score(part) for name, part in outputs.items()}
    return found


def chains(runs: Sequence[Run], count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        large = image_set(folder, "tiny_imagenet", "near", 64)[0]["test.images"]
        rows = every(large, count)
        made = chains_of(large[rows])
    cifar, ours = images_of(runs[0], KNOWN), images_of(runs[0], "tiny_imagenet")
    if not np.array_equal(made.pop("ours"), ours[rows]):
        raise InputError(f"{runs[0].data}/sets: tiny_imagenet is not what the chain makes; write it again")
    made["CIFAR-10 as JPEG"] = each(cifar[every(cifar, count)], jpeg)
    control = artefact_scores(cifar)
    plain = [interval(Scores(control, artefact_scores(images))) for images in (ours[rows], *made.values())]
    for run in runs:
        stored, table = Stored(run), []
        outputs = {
            KNOWN: stored.there(KNOWN, cifar, slice(None)),
            "ours": stored.there("tiny_imagenet", ours, rows),
        }
        bar = tqdm(made.items(), desc=run.model, unit="chain", disable=None)
        outputs |= {name: stored.made(name, images) for name, images in bar}
        pairs = {
            name: {key: Scores(found[KNOWN], found[key]) for key in ("ours", *made)}
            for name, found in scores_of(run, outputs).items()
        }
        for name in FEW:
            start, *rest = pairs[name].values()
            gains = [points(delong_test(start, scores)) for scores in rest[:-1]]
            table.append([name, interval(start), *gains, interval(rest[-1])])
        by_chain = [[found[key] for found in pairs.values()] for key in ("ours", *made)][:-1]
        table.append(["pairs reversed (clearly)", *(changed(by_chain[0], other) for other in by_chain), ""])
        head = f"detector; ours; {'; '.join(made)}"
        title = f"{run.model}, {len(ours[rows])} pictures: AUROC, and the points that it gains"
        show(title, head, [*table, ["artefact control, AUROC", *plain]])


def changed(before: Sequence[Scores], after: Sequence[Scores]) -> str:
    """Return how many pairs of detectors change their order, and how many of them significantly."""
    pairs = reversed_pairs(*([auroc(scores) for scores in side] for side in (before, after)))
    return f"{len(pairs)} ({significant(pairs, before, after)})"


def odin(runs: Sequence[Run], count: int) -> None:
    run = runs[0]
    grid = [{"temperature": t, "epsilon": e} for t, e in product(TEMPERATURES, ODIN.space["epsilon"])]
    path = run.folder / f"{run.model}-odin-{count}.safetensors"
    if not path.exists():
        save_tensors(path, _odin_scores(run, grid, count), kind="scores", metadata={"grid": grid})
    scores, rows = load_tensors(path, kind="scores")[0], []
    for name, temperatures in product(SETS, (TEMPERATURES, TEMPERATURES[1:])):
        some = [place for place, one in enumerate(grid) if one["temperature"] in temperatures]
        found = Candidates("odin", [grid[p] for p in some], {key: part[some] for key, part in scores.items()})
        gain, half, best = optimism(found, name)
        chosen = [list(found.grid[place].values()) for place in (found.own, best)]
        numbers = [interval(found.at(name)), chosen[1], points(gain), f"{100 * half:+.2f}"]
        rows.append([name, temperatures, chosen[0], *numbers])
    head = "set; temperatures; own temperature, step; AUROC; on the test set; gain; on the other half"
    show(f"{run.model}, ODIN, {count} images of each set", head, rows)


def _odin_scores(run: Run, grid: Sequence[dict], count: int) -> dict[str, np.ndarray]:
    model, card = load_model(run.data / f"models/{run.model}-0.safetensors", torch.device("cpu"))
    network = open_model(model, mean=card.mean, std=card.std, device="cpu")
    splits = {"validation": (KNOWN, "validation"), "tuning": ("corruptions", "validation")}
    splits |= {name: (name, "test") for name in (KNOWN, *SETS)}
    images = {key: images_of(run, *place) for key, place in splits.items()}
    # drawn: a step through corruptions would meet some kinds only
    draws = {key: numpy_stream(0, "findings", key).permutation(len(part)) for key, part in images.items()}
    some = {key: part[np.sort(draws[key][:count])] for key, part in images.items()}
    rows = []
    for chosen in tqdm(grid, desc="odin", disable=None):
        detector = ODIN(ODINSettings(**chosen)).fit(network, {})
        rows.append([detector.score(network, part) for part in some.values()])
    return {key: np.stack(column) for key, column in zip(some, zip(*rows, strict=True), strict=True)}


IMAGES = click.Option(
    ["--images", "count"], default=2000, show_default=True, type=click.IntRange(2), help="Of each set."
)
main = command("Print what resizing and ODIN's choice do.", {"chains": chains, "odin": odin}, IMAGES)

if __name__ == "__main__":
    main()
