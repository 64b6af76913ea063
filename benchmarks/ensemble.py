"""An ensemble's evaluation beside pytorch-ood's ODIN, member by member, at equal scores.

python -m benchmarks.ensemble             # all cores
python -m benchmarks.ensemble 1           # one core

Five wideresnet-16-2 for 32 x 32 pixels. `choose` asks what choosing the step needs, four steps at T = 1000
for 200 images; `score` scores 200 images with one step, and gives the MSP of the images themselves too;
`stage` is one after the other, as the stage does it, for as many images to choose on as to score. Their ODIN
takes four (or one) rounds of its own over the same batches, and a forward pass for the MSP. Seconds are of
CPU time, as long as another job runs beside; rounds alternate. Takes two minutes on two cores.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from sslood.core.batches import normalised
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.views.ensemble import Member, Setting, ask

ARCH, MEMBERS, IMAGES, ROUNDS, BATCH = "wideresnet-16-2", 5, 200, 3, 100
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
STEPS = {"choose": (0.0, 0.001, 0.002, 0.004), "score": (0.002,)}
Found = list[np.ndarray]
Pairs = list[tuple[float, float]]  # of each round, our seconds and theirs


def models() -> list[Model]:
    made = []
    for seed in range(MEMBERS):
        with seeded(seed, ARCH):
            network = build_backbone(ARCH, channels=3)
            made.append(Model(network, build_head(network.feature_dim, 8)).eval())
    return made


def ours(images: np.ndarray, steps: tuple[float, ...]) -> Callable[[], Found]:
    """Return a call that gives the largest probability at T = 1000 [N] of each step and member."""
    parts = [model.requires_grad_(False).to(memory_format=torch.channels_last) for model in models()]
    members = [Member(model, range(8), MEAN, STD) for model in parts]
    settings = [Setting(1000.0, step) for step in steps]
    return lambda: [v.largest + 1 / 8 for member in members for v in ask(member, images, settings).votes]


def theirs(images: np.ndarray, steps: tuple[float, ...], *, msp: bool) -> Callable[[], Found]:
    """Return the same by pytorch-ood."""
    from pytorch_ood.detector import ODIN, MaxSoftmax

    made = models()
    batches = list(normalised(torch.from_numpy(images).split(BATCH), MEAN, STD))

    def call() -> Found:
        found = []
        for model in made:
            for step in steps:
                odin = ODIN(model, eps=step, norm_std=STD)
                found.append(-torch.cat([odin.predict(batch) for batch in batches]).numpy())
            if msp:
                with torch.no_grad():
                    torch.cat([MaxSoftmax(model).predict(batch) for batch in batches])
        return found

    return call


def line(name: str, pairs: Pairs) -> str:
    """Return what is printed of rounds of (our seconds, theirs): medians, and the ratio with its range."""
    first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    return (
        f"{name:7} ours {first:6.2f} s  pytorch-ood {second:6.2f} s  ratio {second / first:.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}), {len(pairs)} rounds"
    )


def together(parts: Sequence[Pairs]) -> Pairs:
    """Return rounds that take what the same rounds of all parts take."""
    return [(sum(a for a, _ in of), sum(b for _, b in of)) for of in zip(*parts, strict=True)]


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0)))
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    found: dict[str, Pairs] = {}
    for name, steps in STEPS.items():
        mine, peer = ours(images, steps), theirs(images, steps, msp=name == "score")
        for own, other in zip(mine(), peer(), strict=True):
            np.testing.assert_allclose(own, other, rtol=0, atol=2e-6)
        pairs = []
        for _ in range(ROUNDS):
            begun = [time.process_time()]
            for call in (mine, peer):
                call()
                begun.append(time.process_time())
            pairs.append((begun[1] - begun[0], begun[2] - begun[1]))
        found[name] = pairs
        print(line(name, pairs), flush=True)
    print(line("stage", together(list(found.values()))), flush=True)


if __name__ == "__main__":
    main()
