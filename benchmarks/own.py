"""`fit` and `score` on real photographs: what is caught, false alarms, minutes, pictures a second.

    SSLOOD_DATA_MIRROR=MIRROR python -m benchmarks.own [--mirror] [--speed]

The photographs are those of the mirror (docs/data.md): rooms and fronts of houses, a picture of each class of
ImageNet, hands that sign digits. Of the normal pictures two thirds are given to `fit`, by five splits; the
others and all odd ones are scored. The interval of an AUROC is DeLong's, 95 %, of the first split; the rate
of false alarms of each split stands beside the interval that its file promises. With --mirror, the network
sees each photograph and its mirror image, as by `fit --mirror`. With --speed, `score` runs against a loop of
PIL and the same network, picture by picture, in turn, seven times, on pictures that the file was not fitted
to. Beside the ratio of the times stands that of the processor's seconds, which hardly depends on what else
runs. Ten minutes on two cores; three with --speed.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from sslood.deploy.inputs import Inputs
from sslood.deploy.normal.embedding import Embedded, Embedder
from sslood.deploy.normal.examples import Examples
from sslood.deploy.normal.fit_normal import Distorted, Fitted, fit_normal
from sslood.deploy.normal.fit_pictures import fit_folder, fit_pictures
from sslood.deploy.pictures import Found, decide_pictures, find_pictures
from sslood.deploy.scorer import load_deployed
from sslood.nets.adopting.pretrained import default_name, open_pretrained
from sslood.nets.inference.looks import Looks, seeing
from sslood.nets.networks.files import restore_model
from sslood.ood.measures.intervals import delong_interval
from sslood.ood.measures.metrics import ood_metrics

PHOTOS = Path(os.environ.get("SSLOOD_DATA_MIRROR", ".")) / "photos"
SPLITS, ALPHA, ROUNDS, FEW, MANY = 5, 0.05, 7, 5, 200


class Photographs:
    """All photographs with features and those of their distorted copies, each embedded once."""

    def __init__(self, mirror: bool) -> None:
        arrays, card = open_pretrained(default_name(), set_name="photos", classes=["normal"])
        model = restore_model(arrays, card.metadata(), card.name)
        embedder = Embedder(seeing(model, Looks(mirror)), card.metadata())
        paths = find_pictures(PHOTOS).paths
        start = time.perf_counter()
        self.found: Embedded = embedder.embed(paths)
        print(f"{len(paths)} photographs embedded in {time.perf_counter() - start:.0f} s")
        self.distorted, self.of = embedder.embed_distorted(self.found.paths, None, "benchmark", 0)
        self.folder = np.array([path.relative_to(PHOTOS).parent.as_posix() for path in self.found.paths])

    def rows(self, *folders: str) -> np.ndarray:
        """Return the positions of the photographs in folders."""
        return np.flatnonzero(
            [any(f"{name}/".startswith(f"{one}/") for one in folders) for name in self.folder]
        )


def fitted(
    all_of: Photographs, rows: np.ndarray, by_class: bool, seed: int, bad: Sequence[int] = ()
) -> Fitted:
    """Return `fit_normal` of some photographs, as `fit_pictures` calls it."""
    place = np.full(len(all_of.folder), -1)
    place[rows] = np.arange(len(rows))
    copies = np.flatnonzero(place[all_of.of] >= 0)
    classes, labels = np.unique(all_of.folder[rows], return_inverse=True)
    given = {"labels": labels, "classes": classes.tolist(), "with_head": True} if by_class else {}
    return fit_normal(
        all_of.found.features[rows],
        alpha=ALPHA,
        bad={"known": all_of.found.features[list(bad)]} if len(bad) else None,
        distorted=Distorted(all_of.distorted[copies], place[all_of.of[copies]]),
        seed=seed,
        **given,
    )


def judge(all_of: Photographs, found: Fitted, rows: np.ndarray, classes: list[str]) -> np.ndarray:
    """Return the scores of some photographs."""
    examples = Examples(all_of.found.features[rows], classes=classes)
    return found.calibrated.score(Inputs(examples.outputs(found.head)))


def show(
    all_of: Photographs,
    title: str,
    normal: np.ndarray,
    odd: dict[str, np.ndarray],
    by_class: bool,
    shots: int = 0,
) -> None:
    """Print the false alarms, and for each odd set the AUROC with its interval and the share caught."""
    alarms, names = [], set()
    lines: dict[str, list[str]] = {name: [] for name in odd}
    shares: dict[str, list[float]] = {name: [] for name in odd}
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(normal)
        teach, new = np.sort(order[: 2 * len(order) // 3]), order[2 * len(order) // 3 :]
        bad = np.random.default_rng(seed).permutation(next(iter(odd.values())))[:shots]
        found = fitted(all_of, teach, by_class, seed, bad)
        calibrated, threshold = found.calibrated, found.calibrated.threshold
        names.add(calibrated.name)
        classes = np.unique(all_of.folder[teach]).tolist() if by_class else []
        inside = judge(all_of, found, new, classes)
        rate = 100 * calibrated.is_ood(inside).mean()
        alarms.append(f"{rate:.1f} % ({100 * threshold.low:.1f} to {100 * threshold.high:.1f})")
        for name, rows in odd.items():
            outside = judge(all_of, found, np.setdiff1d(rows, bad), classes)
            shares[name].append(float(calibrated.is_ood(outside).mean()))
            low, high = delong_interval(inside, outside)
            auroc = ood_metrics(inside, outside)["auroc"]
            lines[name].append(f"{100 * auroc:.1f} ({100 * low:.1f} to {100 * high:.1f})")
    print(f"\n{title}: {len(normal)} pictures; {', '.join(sorted(names))}")
    print(f"  false alarms (promised): {', '.join(alarms)}")
    for name in odd:
        every = ", ".join(one.split()[0] for one in lines[name])
        caught = f"{100 * np.mean(shares[name]):.0f} %"
        print(f"  {name}: AUROC {lines[name][0]}; by split {every}; caught {caught} on average", flush=True)


def quality(mirror: bool) -> None:
    """Print all rows, with features of one look or two."""
    all_of = Photographs(mirror)
    rooms = ("bathroom", "bedroom", "kitchen")
    houses, world = all_of.rows("houses"), all_of.rows("imagenet-samples")
    signs, fronts = all_of.rows("sign-digits"), all_of.rows("houses/frontal")
    inner = all_of.rows(*(f"houses/{room}" for room in rooms))
    show(all_of, "houses", houses, {"imagenet": world, "signs": signs}, False)
    show(all_of, "rooms, by class", inner, {"fronts": fronts, "imagenet": world}, True)
    show(all_of, "imagenet", world, {"houses": houses, "signs": signs}, False)
    two = all_of.rows("houses/bathroom", "houses/bedroom")
    kitchens = all_of.rows("houses/kitchen")
    for shots in (0, 1, FEW):
        show(all_of, f"bathrooms and bedrooms, {shots} known kitchens", two, {"kitchens": kitchens,
             "fronts": fronts, "imagenet": world}, False, shots)  # fmt: skip
    for by_class in (True, False):
        for digits in ((0, 1, 2), (3, 4, 5), (7, 8, 9)):
            odd = all_of.rows(*(f"sign-digits/{digit}" for digit in digits))
            how = "by class" if by_class else "without classes"
            title = f"signs but {', '.join(map(str, digits))}, {how}"
            show(all_of, title, np.setdiff1d(signs, odd), {"these": odd, "houses": houses}, by_class)


def speed() -> None:
    """Print how long `fit` takes, and `score` against a loop, in turn."""
    start = time.perf_counter()
    found = fit_folder(PHOTOS / "imagenet-samples", alpha=ALPHA)
    print(f"fit: {len(found.pictures.paths)} pictures in {time.perf_counter() - start:.0f} s")
    every = find_pictures(PHOTOS / "imagenet-samples")
    paths, rest = every.paths[:MANY], Found(every.paths[MANY:], every.names[MANY:])
    out = Path(tempfile.mkdtemp()) / "own.safetensors"
    fit_pictures(found.arrays, found.card, rest, alpha=ALPHA).save(out)
    scorer = load_deployed(out)
    model = restore_model(found.arrays, found.card.metadata(), "network")
    size = found.card.size
    chain = Compose(
        [Resize(found.card.resize_to or size, InterpolationMode.BICUBIC), CenterCrop(size), PILToTensor()]
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.card.mean, found.card.std))

    def loop() -> None:
        with torch.inference_mode():
            for path in paths:
                pixels = chain(Image.open(path).convert("RGB")) / 255
                model.features(((pixels - mean) / std)[None])

    def ours() -> None:
        decide_pictures(scorer, paths)

    times: dict[str, list[float]] = {"loop": [], "score": []}
    busy: dict[str, list[float]] = {"loop": [], "score": []}
    for name, run in (("loop", loop), ("score", ours)) * ROUNDS:
        start, before = time.perf_counter(), time.process_time()
        run()
        times[name].append(time.perf_counter() - start)
        busy[name].append(time.process_time() - before)
    each = ", ".join(f"{name} {MANY / median(some):.1f}" for name, some in times.items())
    work = ", ".join(f"{name} {1000 * median(some) / MANY:.1f}" for name, some in busy.items())
    faster, less = (
        median(a / b for a, b in zip(some["loop"], some["score"], strict=True)) for some in (times, busy)
    )
    print(f"pictures a second: {each} (medians, n = {ROUNDS})")
    print(f"score is {faster:.2f} times as fast, with {torch.get_num_threads()} threads")
    print(f"processor's milliseconds per picture: {work}; {less:.2f} times less")


def main() -> None:
    speed() if "--speed" in sys.argv else quality("--mirror" in sys.argv)


if __name__ == "__main__":
    main()
