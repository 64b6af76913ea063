"""The backbone `fast` beside torchvision's ResNet-18: images a second, trained and scored, in one process.

    python -m benchmarks.fast                 # width 56, float32, three minutes on two cores
    python -m benchmarks.fast --width 16      # the narrow one of the studies
    python -m benchmarks.fast --cpu_time      # on a machine that others use too

Ours is a step of the stage `train`: shifts and alternating mirror images, forwards, backwards, update. The
peer is torchvision's resnet18 with the usual stem for 32 x 32 pixels (3 x 3, stride 1, no pooling), trained
by a plain loop with SGD on one batch that is ready, in both memory layouts, of which the faster counts. Each
has the batch of its recipe, 500 and 128.
Scoring is a forward pass in evaluation mode. Random images, since speed does not depend on them; alternating
rounds, the first not counted; the ratio is the median over rounds, with its range.
"""

import statistics
import time
from collections.abc import Callable

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from sslood.core.machine import machine
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.classify import Classify, ClassifySettings
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.engine import Engine

Step = Callable[[], object]
LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}


def ours(width: int, batch: int, optimiser: str) -> tuple[Step, Step]:
    """Return (a step of training, a forward pass) of `fast`."""
    here = machine("float32")
    images = np.random.default_rng(0).integers(0, 256, (4 * batch, 3, 32, 32), np.uint8)
    data = ResidentSet(images, np.arange(len(images)) % 10, here.device)
    settings = ClassifySettings(
        epochs=1, batch_size=batch, accumulate=1, optimiser=optimiser, lr=0.01, final_lr=0.0,  # type: ignore[arg-type]
        schedule="linear", warmup_epochs=0, momentum=0.9, nesterov=True, weight_decay=0.0005, clip=0.0,
        precision="float32", save_every=1, labels=100, label_smoothing=0.2, freeze="none", alternate=True,
    )  # fmt: skip
    with seeded(0):
        backbone = build_backbone(f"fast-{width}", channels=3)
        model = Model(backbone, build_head(backbone.feature_dim, 10))
    about = {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}
    task = Classify(
        model, data, data, recipe=AugmentSettings(pad=2), preprocessing=about, label="fast",
        settings=settings, seed=0, machine=here,
    )  # fmt: skip
    engine, index = Engine(task), torch.arange(batch)

    def train() -> None:
        task.begin_epoch(0)
        engine.step(0, task.batches(iter([index])))

    return train, lambda: task.predict(data.images[:batch])


def theirs(batch: int, layout: torch.memory_format) -> tuple[Step, Step]:
    """Return (a step of training, a forward pass) of torchvision's ResNet-18 with the stem of CIFAR."""
    network = resnet18(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    network = network.to(memory_format=layout)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=layout)
    labels = torch.arange(batch) % 10

    def train() -> None:
        network.train()
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels, label_smoothing=0.2).backward()
        optimiser.step()

    @torch.inference_mode()
    def score() -> None:
        network.eval()(images)

    return train, score


def speeds(
    steps: dict[str, tuple[Step, int]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return images a second of each in each round, all of them in turn, after one that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, (step, batch) in steps.items():
            start = clock()
            step()
            if turn:
                found[name].append(batch / (clock() - start))
    return found


@click.command()
@click.option("--width", default=56, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=500, show_default=True, type=click.IntRange(2), help="Images per step.")
@click.option("--peer_batch", default=128, show_default=True, type=click.IntRange(2), help="The peer's.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--cpu_time", is_flag=True, help="Images per second of one core, not of the clock.")
@click.option("--optimiser", default="muon", show_default=True, type=click.Choice(["sgd", "muon"]))
def main(width: int, batch: int, peer_batch: int, rounds: int, cpu_time: bool, optimiser: str) -> None:
    """Print images a second of both, and the ratios."""
    clock = time.process_time if cpu_time else time.perf_counter
    mine = ours(width, batch, optimiser)
    peers = {name: theirs(peer_batch, layout) for name, layout in LAYOUTS.items()}
    print(
        f"fast-{width}, {optimiser}, batch {batch} and {peer_batch}, {torch.get_num_threads()} threads, ",
        end="",
    )
    print(f"n = {rounds} rounds, {'CPU time' if cpu_time else 'by the clock'}")
    for place, what in enumerate(("training", "scoring")):
        steps = {"fast": (mine[place], batch)}
        steps |= {name: (pair[place], peer_batch) for name, pair in peers.items()}
        found = speeds(steps, rounds, clock)
        medians = {name: statistics.median(values) for name, values in found.items()}
        peer = max(LAYOUTS, key=medians.__getitem__)
        ratios = [a / b for a, b in zip(found["fast"], found[peer], strict=True)]
        print(
            f"{what}: {medians['fast']:,.0f} images/s, ResNet-18 ({peer}) {medians[peer]:,.1f}, "
            f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
