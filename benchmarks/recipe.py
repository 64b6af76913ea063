"""SimCLR on CIFAR-size images beside lightly's recipe on the same device: views a second, in one run.

    python -m benchmarks.recipe                 # on CUDA: ResNet-18, batch 512, 16 workers; some minutes
    python -m benchmarks.recipe --workers 8
    python -m benchmarks.recipe --small         # on whatever device there is, tiny: a try of this file

lightly's recipe is that of its CIFAR-10 table: its transform of PIL images in the workers of a DataLoader,
its NT-Xent, SGD, float32 (cuDNN may use TF32). The second row gives it bfloat16 autocast and channels last
as well, which that recipe has not. Both train the same ResNet with a head of 512 and 128 on random images,
of which the speed does not depend. Medians over blocks of steps, the device synchronised around each; the
first block, which compiles, warms up and empties what the workers read ahead, is not counted. Target on an
H100: 3 times.
"""

import statistics
import sys
from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import gpu
from sslood.core.machine import Machine, machine
from sslood.core.precision import Precision, autocast
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_projector


class Pictures(torch.utils.data.Dataset):
    """Random images as PIL pictures, through a transform that returns two views."""

    def __init__(self, count: int, size: int, transform: Callable):
        self.arrays = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> list[Tensor]:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[index]))


def batches(form: gpu.Form, here: Machine, workers: int) -> Iterator[list[Tensor]]:
    """Yield two views [B, 3, H, W] on the device, for ever."""
    from lightly.transforms.simclr_transform import SimCLRTransform

    transform = SimCLRTransform(input_size=form.size, cj_strength=0.5, gaussian_blur=0.0)
    loader = torch.utils.data.DataLoader(
        Pictures(20 * form.batch, form.size, transform), batch_size=form.batch, shuffle=True, drop_last=True,
        num_workers=workers, pin_memory=here.device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    while True:
        for views in loader:
            yield [view.to(here.device, non_blocking=True) for view in views]


def theirs(form: gpu.Form, here: Machine, workers: int, precision: Precision) -> Callable[[], object]:
    """Return a step of lightly's recipe; with autocast and channels last where the precision is bf16."""
    from lightly.loss.ntx_ent_loss import NTXentLoss

    with seeded(0):
        backbone = build_backbone(form.architecture, channels=3)
        head = build_projector(backbone.feature_dim, (512, 128), batch_norm=False)
    layout = torch.channels_last if precision == "bf16" else torch.contiguous_format
    network = nn.Sequential(backbone, head).to(here.device, memory_format=layout).train()
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.06 * form.batch / 128, momentum=0.9, weight_decay=5e-4
    )
    criterion, source = NTXentLoss(temperature=0.5), batches(form, here, workers)

    def step() -> None:
        views = [view.contiguous(memory_format=layout) for view in next(source)]
        with autocast(here.device, precision):
            z1, z2 = (network(view) for view in views)
        loss = criterion(z1.float(), z2.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def ours(form: gpu.Form, here: Machine) -> Callable[[], object]:
    """Return a step of the stage `pretrain` with the settings of the profile cifar10."""
    task, engine = gpu.build("simclr", form, here, "cifar10")

    def source() -> Iterator:
        epoch = 0
        while True:
            yield from task.batches(engine.indices(epoch))
            epoch += 1

    views = source()
    return lambda: engine.step(0, views)


@click.command()
@click.option("--small", is_flag=True, help="A tiny network, on any device.")
@click.option("--workers", default=16, show_default=True, type=click.IntRange(0))
def main(small: bool, workers: int) -> None:
    """Print views a second of ours and of lightly's recipe, and the ratios."""
    here = machine()
    if here.device.type != "cuda" and not small:
        sys.exit("benchmarks.recipe: no CUDA device; try it with --small")
    form = gpu.SMALL if small else gpu.LARGE
    rows = {
        "this pipeline": ours(form, here),
        f"lightly, {workers} workers, float32": theirs(form, here, workers, "float32"),
        f"lightly, {workers} workers, bf16": theirs(form, here, workers, "bf16"),
    }
    where = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "CPU"
    print(f"{where}: {form.architecture}, {form.size} px, batch {form.batch}, ", end="")
    print(f"n = {form.blocks} blocks of {form.block} steps")
    first = None
    for name, step in rows.items():
        times = gpu.seconds(step, form, here)
        views = 2 * form.batch / statistics.median(times)
        first = first or views
        low, high = (2 * form.batch / end(times) for end in (max, min))
        print(f"{name:32} {views:8,.0f} views/s ({low:,.0f} to {high:,.0f}), ratio {first / views:.1f}")


if __name__ == "__main__":
    main()
