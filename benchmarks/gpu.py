"""Pretraining on a GPU: the CPU's results in float32, views a second in bf16, and what the data cost.

    python -m benchmarks.gpu            # on CUDA: ResNet-18, 32 px, batch 512; about ten minutes
    python -m benchmarks.gpu simclr     # only these of the three that are timed
    python -m benchmarks.gpu --small    # the same on whatever device there is, tiny: a try of this file

First the float32 results of the device are compared with the CPU's (benchmarks/agreement.py); if one differs
by more than it may, the exit status is 1 at the end. Then SimCLR, BYOL and DINO train with bf16,
torch.compile and channels last; a view is one image going forwards and backwards. The data share is the time
that augmentation adds to steps on frozen views. Medians over blocks of steps, device synchronised around each
block; compiling and warming up are not counted.

Targets on an H100: 60,000 views/s for SimCLR (stretch 90,000), 3/4 of it for BYOL and DINO, data share 5 %.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.agreement import compare, refuse
from benchmarks.learning import objective_run
from sslood.core.machine import Machine, machine
from sslood.data.images.resident import ResidentSet
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.training.engine import Engine

TIMED = ("simclr", "byol", "dino")


@dataclass(frozen=True)
class Form:
    """What is timed."""

    architecture: str
    size: int
    batch: int
    block: int  # steps between two looks at the clock
    blocks: int


LARGE = Form("resnet18", 32, 512, 20, 9)
SMALL = Form("resnet-8-4", 16, 64, 2, 3)


def build(
    name: str, form: Form, here: Machine, profile: str, **changes: object
) -> tuple[Pretraining, Engine]:
    """Return a run of an objective on random images and its engine, with the profile's constants."""
    images = np.random.default_rng(0).integers(0, 256, (4 * form.batch, 3, form.size, form.size), np.uint8)
    data = ResidentSet(images, np.arange(len(images)) % 10, here.device)
    settings = {"batch_size": form.batch, "accumulate": 1, "knn_every": 0, "precision": "bf16", **changes}
    about = {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}
    task = objective_run(name, form.architecture, profile, settings, [data, data], about, here)
    engine = task.engine()
    task.begin_epoch(1)
    return task, engine


def seconds(step: Callable[[], object], form: Form, here: Machine) -> list[float]:
    """Return the seconds of a step in each block, after one block that is not counted."""
    times = []
    for block in range(form.blocks + 1):
        _wait(here)
        start = time.perf_counter()
        for _ in range(form.block):
            step()
        _wait(here)
        if block:
            times.append((time.perf_counter() - start) / form.block)
    return times


def _wait(here: Machine) -> None:
    if here.device.type == "cuda":
        torch.cuda.synchronize(here.device)


def timed(name: str, form: Form, here: Machine) -> dict[str, float]:
    """Return views a second, their spread, and the share of a step that the augmentation takes."""
    torch.compiler.reset()  # graphs of the objective before would count against the limit of this one
    task, engine = build(name, form, here, "cifar10" if form is LARGE else "objectives")
    index = next(task.data.epoch_batches(0, 0, form.batch))
    whole = seconds(lambda: engine.step(0, task.batches(iter([index]))), form, here)
    views, labels = next(task.batches(iter([index])))
    frozen = [view.clone() for view in views], labels
    without = statistics.median(seconds(lambda: engine.step(0, iter([frozen])), form, here))
    middle = statistics.median(whole)
    count = form.batch * task.objective.views
    return {
        "views": count / middle,
        "low": count / max(whole),
        "high": count / min(whole),
        "share": max(0.0, 1 - without / middle),
    }


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    here = machine()
    if here.device.type != "cuda" and "--small" not in words:
        sys.exit("benchmarks.gpu: no CUDA device; try it with --small")
    form = SMALL if "--small" in words else LARGE
    wrong = compare(here.device, torch.device("cpu"))
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    where = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "CPU"
    print(f"{where}: {form.architecture}, {form.size} px, batch {form.batch}, bf16, ", end="")
    print(f"compile {here.compile}, n = {form.blocks} blocks of {form.block} steps")
    for name in [word for word in words if word in TIMED] or TIMED:
        row = timed(name, form, here)
        print(
            f"{name:8} {row['views']:8,.0f} views/s (median; {row['low']:,.0f} to {row['high']:,.0f}), "
            f"data {row['share']:.1%} of a step",
            flush=True,
        )
    refuse(wrong)


if __name__ == "__main__":
    main()
