"""What each objective learns on real CIFAR-10: accuracy of nearest neighbours and of a linear classifier.

    python -m benchmarks.learning                  # a small ResNet, 4,000 images of 16 px: minutes
    python -m benchmarks.learning --gpu            # ResNet-18, all images, 200 epochs: for one GPU
    python -m benchmarks.learning simclr byol      # some of the objectives

The images come from the mirror (SSLOOD_DATA_MIRROR) or from their publisher. Small form: all objectives train
equally long with the constants of profiles/objectives.yaml; --gpu: 200 epochs with those of
profiles/cifar10.yaml. The bank is the training images, the queries are test images that no run has seen, k is
20 (200 with --gpu, as in lightly's table, which has SimCLR at .848, Barlow Twins .842, BYOL .869, DINO .840
after 200 epochs). Seconds are those of the training alone; they compare objectives on one machine.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from stages.core.artefacts import load_tensors
from stages.data.resident import ResidentSet
from stages.download import main as download
from stages.machine import machine
from stages.models.build import build_backbone, seeded
from stages.selfsup.pretraining import Pretraining, recipes_of, settings_of
from stages.selfsup.registry import OBJECTIVES, objective_class
from stages.training.watch import knn_accuracy, linear_accuracy

PROFILES = Path(__file__).resolve().parent.parent / "profiles"
FIRST = ("scratch", "supce", "simclr")  # a table that is cut short has a control and the two ends


@dataclass(frozen=True)
class Form:
    """Network, pixels, images a split (0 = all), profile of the constants, neighbours, and own settings."""

    architecture: str
    size: int
    limit: int
    profile: str
    k: int
    changes: dict[str, object]


SMALL = Form("resnet-8-16", 16, 4000, "objectives", 20, {"epochs": 10, "batch_size": 64, "knn_every": 0})
LARGE = Form("resnet18", 32, 0, "cifar10", 200, {"epochs": 200, "knn_every": 0})


def cifar10(folder: str, size: int, limit: int) -> tuple[dict, dict]:
    """Write CIFAR-10 as the stage `download` does; return its tensors and metadata."""
    words = (
        f"--set cifar10 --role id --id cifar10 --size {size} --channels 3 --validation 0.1 --count 8 "
        f"--seed 0 --test 0.3 --limit {limit} --out {folder}/set"
    )
    with download.make_context("download", words.split()) as context:
        download.invoke(context)
    return load_tensors(f"{folder}/set", kind="set")


def train(name: str, form: Form, tensors: dict, meta: dict, seed: int = 0) -> dict[str, float]:
    """Train one objective; return its accuracies on test images, the seconds and views a second."""
    base, own, cifar = (
        yaml.safe_load((PROFILES / f"{file}.yaml").read_text())
        for file in ("quickstart", form.profile, "cifar10")
    )
    section = {k: v for k, v in own["objectives"][name].items() if k not in form.changes}
    kind = objective_class(name)
    shared = {**base["pretrain"], **own.get("pretrain", {}), **form.changes}
    training, constants = settings_of(shared, section, kind.Constants, name)
    here = machine()
    with seeded(seed):
        backbone = build_backbone(form.architecture, channels=3)
        method = kind(backbone, constants, classes=10)
    sets = [
        ResidentSet(tensors[f"{split}.images"], tensors[f"{split}.labels"], here.device)
        for split in ("train", "validation", "test")
    ]
    run = Pretraining(
        name, backbone, method, training, recipes_of(cifar["augment"]["pretrain"], name), *sets[:2],
        mean=meta["mean"], std=meta["std"], seed=seed, machine=here,
    )  # fmt: skip
    start = time.perf_counter()
    run.run(None)
    seconds = time.perf_counter() - start
    views = run.steps * run.images * training.epochs * kind.views
    bank, queries = run.features(sets[0]), run.features(sets[2])
    pairs = (bank, sets[0].labels, queries, sets[2].labels)
    accuracies = {"knn": knn_accuracy(*pairs, k=form.k), "linear": linear_accuracy(*pairs)}
    return {**accuracies, "seconds": seconds, "views": views / seconds}


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    form = LARGE if "--gpu" in words else SMALL
    wanted = [word for word in words if not word.startswith("--")] or [
        *FIRST, *sorted(set(OBJECTIVES) - set(FIRST)),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        tensors, meta = cifar10(folder, form.size, form.limit)
        print(f"{form.architecture}, {form.size} px, {meta['splits']}, {form.changes}")
        print(f"{'objective':22} {'kNN':>6} {'gain':>6} {'linear':>7} {'seconds':>8} {'views/s':>8}")
        control = None
        for name in ["scratch", *(name for name in wanted if name != "scratch")]:
            row = train(name, form, tensors, meta)
            control = row["knn"] if control is None else control
            numbers = f"{row['knn']:6.3f} {row['knn'] - control:+6.3f} {row['linear']:7.3f}"
            print(f"{name:22} {numbers} {row['seconds']:8.1f} {row['views']:8.0f}", flush=True)


if __name__ == "__main__":
    main()
