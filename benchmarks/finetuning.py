"""An epoch of training against outliers beside the same network behind a DataLoader with PIL.

    python -m benchmarks.finetuning                                # small networks, 12 and 32 px: minutes
    python -m benchmarks.finetuning --arch resnet18 --images 50000 # one network; on a GPU where there is one
    python -m benchmarks.finetuning --cpu_time                     # beside other jobs: CPU time
    python -m benchmarks.finetuning --mode head                    # the head alone, the backbone frozen
    python -m benchmarks.finetuning --mode head --views 2          # ten epochs on two views of each image

Both sides fine-tune one classifier with energy margins, SGD and frozen batch norm, 128 ID images and 256
outliers a batch, each shifted by up to an eighth of its size and mirrored. The peer is the loop of published
code: two DataLoaders over PIL images with torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and
Normalize, with each number of workers; the fastest counts. It computes in the precision of ours, or with
--peer_precision float32 as it was published. Before that, both must see the same pixels. "network alone" is
the peer's epoch on batches that lie ready, which no loader can beat: where the network takes most of an
epoch, no loader matters much. Rounds alternate. With --views a round of ours makes the views and trains
--epochs epochs on them; an epoch is its share of all that.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import chain, count, islice, repeat
from typing import Literal

import click
import numpy as np
import torch
from torch import Tensor

from sslood.core.machine import Machine, machine
from sslood.core.precision import Precision, at_least_float32, autocast
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.frozen import FrozenFeatures
from sslood.nets.methods.outliers import Outliers, OutlierSettings, energy_objective
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.engine import Engine

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
BATCH, OUTLIERS, CLASSES = 128, 256, 10
FORMS = (("resnet-8-4", 12), ("resnet-8-16", 12), ("resnet-8-16", 32), ("resnet-20-16", 32))
Epoch = Callable[[], object]
Mode = Literal["full", "head"]


def classifier(arch: str) -> Model:
    with seeded(0, arch):
        network = build_backbone(arch, channels=3)
        return Model(network, build_head(network.feature_dim, CLASSES))


def arrays(images: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ID images [N, 3, H, W], their labels, and twice as many outliers."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3 * images, 3, size, size), dtype=np.uint8)
    return pixels[:images], rng.integers(0, CLASSES, images), pixels[images:]


def ours(
    arch: str,
    size: int,
    images: int,
    mode: Mode,
    precision: Precision,
    here: Machine,
    views: int = 0,
    epochs: int = 1,
) -> tuple[Outliers, Epoch]:
    """Return the task of the stage `energy`, and a call that makes its views anew and trains some epochs."""
    own, labels, others = arrays(images, size)
    settings = OutlierSettings(
        epochs=1000, batch_size=BATCH, accumulate=1, optimiser="sgd", lr=0.001, final_lr=0.0,
        schedule="constant", warmup_epochs=0, momentum=0.9, nesterov=True, weight_decay=5e-4, clip=0.0,
        precision=precision, save_every=1000, auxiliary_batch_size=OUTLIERS, weight=0.1, batch_norm="frozen",
        select="last", margins="auto", gap=0.0, m_in=0.0, m_out=0.0, loss="energy", views=views,
    )  # fmt: skip
    known, few = ResidentSet(own, labels, here.device), ResidentSet(own[:BATCH], labels[:BATCH], here.device)
    task = Outliers(
        classifier(arch), known, few, ResidentSet(others, np.full(len(others), -1), here.device), few.images,
        mode=mode, fresh_head=True, settings=settings, recipe=AugmentSettings(pad=size // 8, flip=0.5),
        preprocessing={"mean": MEAN, "std": STD}, label="finetuning", seed=0, machine=here,
    )  # fmt: skip
    engine, passed = Engine(task), count()

    def some_epochs() -> None:
        task.frozen = FrozenFeatures()
        for number in islice(passed, epochs):
            task.begin_epoch(number)
            batches = task.batches(engine.indices(number))
            for step in range(engine.steps):
                engine.step(step, batches)

    return task, some_epochs


class Pictures(torch.utils.data.Dataset):
    """Images through torchvision's transforms of PIL images."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, augmented: bool = True):
        from torchvision import transforms as t

        self.images, self.labels, size = images.transpose(0, 2, 3, 1), labels.tolist(), images.shape[2]
        moves = [t.RandomCrop(size, padding=size // 8), t.RandomHorizontalFlip()] if augmented else []
        self.transform = t.Compose([*moves, t.ToTensor(), t.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loader(pictures: Pictures, batch: int, workers: int, here: Machine) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(
        pictures, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers,
        pin_memory=here.device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip


class Theirs:
    """The published loop: an epoch through loaders, or over batches that lie ready."""

    def __init__(
        self, arch: str, margins: tuple[float, float], mode: Mode, precision: Precision, here: Machine
    ):
        self.here, self.precision = here, precision
        self.model = classifier(arch).to(here.device).eval()
        self.model.backbone.requires_grad_(mode == "full")
        self.m_in, self.m_out = margins
        trained = self.model if mode == "full" else self.model.need_head()
        self.optimiser = torch.optim.SGD(
            trained.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def train(self, batches: Iterator[tuple[Tensor, Tensor, Tensor]]) -> None:
        for images, labels, others in batches:
            both = torch.cat((images, others)).to(self.here.device, non_blocking=True)
            truth = labels.to(self.here.device, non_blocking=True)
            with autocast(self.here.device, self.precision):
                logits = at_least_float32(self.model(both))
            loss, _ = energy_objective(logits, truth, weight=0.1, m_in=self.m_in, m_out=self.m_out)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def through(self, known: torch.utils.data.DataLoader, others: torch.utils.data.DataLoader) -> Epoch:
        def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            outliers = chain.from_iterable(repeat(others))
            for (images, labels), (unknown, _) in zip(known, outliers, strict=False):
                yield images, labels, unknown

        return lambda: self.train(batches())

    def ready(self, steps: int, size: int) -> Epoch:
        batch = torch.randn(BATCH, 3, size, size), torch.arange(BATCH) % CLASSES
        others = torch.randn(OUTLIERS, 3, size, size)
        return lambda: self.train(iter([(*batch, others)] * steps))


def seconds(epoch: Epoch, here: Machine, cpu_time: bool) -> float:
    """Return the seconds of a call by the clock, or of CPU time over this process and its workers."""

    def now() -> float:
        if here.device.type == "cuda":
            torch.cuda.synchronize(here.device)
        return sum(os.times()[:4]) if cpu_time else time.perf_counter()

    begun = now()
    epoch()
    return now() - begun


def compare(
    arch: str,
    size: int,
    images: int,
    mode: Mode,
    rounds: int,
    precision: Precision,
    peer_precision: Precision,
    cpu_time: bool,
    here: Machine,
    views: int = 0,
    epochs: int = 1,
) -> str:
    """Return a line: seconds an epoch of both sides, of the network alone, and the ratio."""
    task, own = ours(arch, size, images, mode, precision, here, views, epochs)
    known, labels, others = arrays(images, size)
    clean = Pictures(known[:BATCH], labels[:BATCH], augmented=False)
    seen = torch.stack([clean[place][0] for place in range(BATCH)])
    mine = task.views.clean(task.data.images[:BATCH]).cpu().to(seen.dtype)
    torch.testing.assert_close(mine, seen, rtol=0, atol=1e-5)
    theirs = Theirs(arch, (task.margins["m_in"], task.margins["m_out"]), mode, peer_precision, here)
    sides = {"ours": own, "alone": theirs.ready(images // BATCH, size)}
    pictures = Pictures(known, labels), Pictures(others, np.full(len(others), -1))
    # workers of a loader end with it, and only then does their CPU time count
    for workers in (0,) if cpu_time else sorted({0, 1, 2, max(1, (os.cpu_count() or 1) // 2)}):
        pair = [loader(part, batch, workers, here)
                for part, batch in zip(pictures, (BATCH, OUTLIERS), strict=True)]  # fmt: skip
        sides[f"{workers} workers each"] = theirs.through(*pair)
    for epoch in sides.values():  # warms up, compiles, starts the workers
        epoch()
    found = {name: [] for name in sides}  # type: dict[str, list[float]]
    for _ in range(rounds):
        for name, epoch in sides.items():
            found[name].append(seconds(epoch, here, cpu_time) / (epochs if name == "ours" else 1))
    times = {name: statistics.median(values) for name, values in found.items()}
    best = min((name for name in sides if "workers" in name), key=lambda name: times[name])
    ratios = sorted(b / a for a, b in zip(found["ours"], found[best], strict=True))
    return (
        f"{arch:13} {size} px  ours {times['ours']:6.2f} s  PIL, {best} {times[best]:6.2f} s  ratio "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})  network alone "
        f"{times['alone']:6.2f} s, n = {rounds}"
    )


@click.command()
@click.option("--arch", help="Architecture; several small ones without.")
@click.option("--size", default=32, show_default=True, help="Pixels, with --arch.")
@click.option(
    "--images", default=2560, show_default=True, help="ID images of an epoch; outliers are twice as many."
)
@click.option("--mode", default="full", show_default=True, type=click.Choice(["full", "head"]))
@click.option("--views", default=0, show_default=True, help="Of each image, with --mode head; 0: new ones.")
@click.option("--epochs", default=10, show_default=True, help="On these views, with --views.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--precision", default="float32", show_default=True, type=click.Choice(["float32", "bf16"]))
@click.option("--peer_precision", type=click.Choice(["float32", "bf16"]), help="The loop's, if another.")
@click.option("--cpu_time", is_flag=True, help="CPU time in place of the clock, without workers.")
def main(
    arch: str | None,
    size: int,
    images: int,
    mode: Mode,
    views: int,
    epochs: int,
    rounds: int,
    precision: Precision,
    peer_precision: Precision | None,
    cpu_time: bool,
) -> None:
    """Print a line per network."""
    here = machine(precision)
    where = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "CPU"
    kind = "CPU time" if cpu_time else "by the clock"
    print(
        f"{where}, {torch.get_num_threads()} threads, {precision}, the loop {peer_precision or precision}, "
        f"{mode}, {images} + {2 * images} images, {kind}"
        + (f", {views} views for {epochs} epochs" if views else "")
    )
    for name, pixels in [(arch, size)] if arch else FORMS:
        both = (precision, peer_precision or precision)
        often = (views, epochs if views else 1)
        print(compare(name, pixels, images, mode, rounds, *both, cpu_time, here, *often), flush=True)


if __name__ == "__main__":
    main()
