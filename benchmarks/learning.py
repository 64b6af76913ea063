"""What each objective learns on real CIFAR-10: accuracy of nearest neighbours and of a linear classifier.

    python -m benchmarks.learning                  # a small ResNet, 4,000 images of 16 px: 15 minutes a seed
    python -m benchmarks.learning --seeds 3        # means and standard deviations over seeds
    python -m benchmarks.learning simclr byol      # some of the objectives
    python -m benchmarks.learning --gpu            # ResNet-18, all images, 200 epochs: for one GPU

The images come from the mirror (SSLOOD_DATA_MIRROR) or from their publisher. Small form: all objectives train
equally long with the constants of profiles/objectives.yaml; --gpu: 200 epochs with those of
profiles/cifar10.yaml. The bank is the training images, the queries are test images that no run has seen, k is
20 (200 with --gpu, as in lightly's table, which has SimCLR at .848, Barlow Twins .842, BYOL .869, DINO .840
after 200 epochs). The gain is over the untrained encoder of the same seed, z the gain in units of its
standard error on the same test images (McNemar's, the smallest of the seeds: above 3 it is no accident).
Seconds are those of the training alone; they compare objectives on one machine. --precision bf16 and
SSLOOD_COMPILE=1 show what they do to the accuracy.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import click
import numpy as np
import torch
import yaml

from sslood.core.files import load_tensors
from sslood.core.machine import Machine, machine
from sslood.core.precision import Precision
from sslood.data.images.resident import ResidentSet
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.selfsup.settings import recipes_of, settings_of
from sslood.nets.training.watch import KNN_TEMPERATURE, knn_labels, linear_accuracy
from stages.download import main as download
from tests.kit.registries import OBJECTIVES, objective_class

PROFILES = Path(__file__).resolve().parent.parent / "profiles"
FIRST = ("scratch", "supce", "simclr")  # a table that is cut short has a control and the two ends


@dataclass(frozen=True)
class Form:
    """Network, pixels, images per split (0 = all), profile of the constants, neighbours, own settings."""

    architecture: str
    size: int
    limit: int
    profile: str
    k: int
    changes: dict[str, object]


SMALL = Form("resnet-8-16", 16, 4000, "objectives", 20, {"epochs": 20, "batch_size": 64, "knn_every": 0})
LARGE = Form("resnet18", 32, 0, "cifar10", 200, {"epochs": 200, "knn_every": 0})


def image_set(folder: str, name: str, role: str, size: int, limit: int = 0) -> tuple[dict, dict]:
    """Write a set that fits CIFAR-10 as the stage `download` does; return its tensors and metadata."""
    params = Path(folder) / f"{name}.yaml"
    params.write_text(
        f"sets:\n  {name}: {{role: {role}, source: {name}}}\n"
        + ("" if name == "cifar10" else "  cifar10: {role: id, source: cifar10}\n")
    )
    words = (
        f"--set {name} --item {params}:sets.{name} --id cifar10 --id_item {params}:sets.cifar10 "
        f"--size {size} --channels 3 --validation 0.1 --count 8 --seed 0 --test 0.3 --limit {limit} "
        f"--out {folder}/{name}"
    )
    with download.make_context("download", words.split()) as context:
        download.invoke(context)
    return load_tensors(f"{folder}/{name}", kind="set")


@dataclass(frozen=True)
class Row:
    """A run: which test images the neighbours name rightly [N], linear accuracy, seconds, views a second."""

    right: np.ndarray
    linear: float
    seconds: float
    views: float


def train(name: str, form: Form, tensors: dict, meta: dict, seed: int) -> Row:
    """Train one objective from a seed and judge its features."""
    torch.compiler.reset()  # graphs of the objectives before would count against the limit of this one
    run, sets = prepare(name, form, tensors, meta, seed)
    start = time.perf_counter()
    run.run(None)
    seconds = time.perf_counter() - start
    steps = len(sets[0]) // run.settings.batch_size * run.settings.epochs * run.objective.trains
    views = steps * run.settings.batch_size * run.objective.views
    bank, queries = run.features(sets[0]), run.features(sets[2])
    guesses = knn_labels(bank, sets[0].labels, queries, k=form.k, temperature=KNN_TEMPERATURE)
    linear = linear_accuracy(bank, sets[0].labels, queries, sets[2].labels)
    return Row((guesses == sets[2].labels).cpu().numpy(), linear, seconds, views / seconds)


def prepare(
    name: str, form: Form, tensors: dict, meta: dict, seed: int
) -> tuple[Pretraining, list[ResidentSet]]:
    """Return a run of an objective with the form's settings, and the sets train, validation and test."""
    here = machine()
    sets = [
        ResidentSet(tensors[f"{split}.images"], tensors[f"{split}.labels"], here.device)
        for split in ("train", "validation", "test")
    ]
    run = objective_run(name, form.architecture, form.profile, form.changes, sets[:2], meta, here, seed)
    return run, sets


def objective_run(
    name: str,
    architecture: str,
    profile: str,
    changes: Mapping[str, object],
    sets: Sequence[ResidentSet],
    about: Mapping[str, Sequence[float]],
    here: Machine,
    seed: int = 0,
) -> Pretraining:
    """Return a run with the constants of a profile, but for `changes`, and its views or those of cifar10.

    sets: train and validation, of ten classes. about: holds mean and std.
    """
    base, own, cifar = (
        yaml.safe_load((PROFILES / f"{file}.yaml").read_text()) for file in ("quickstart", profile, "cifar10")
    )
    section = {key: value for key, value in own["objectives"][name].items() if key not in changes}
    kind = objective_class(name)
    shared = {**base["pretrain"], **own.get("pretrain", {}), **changes}
    training, own_settings = settings_of(shared, section, kind.Settings, name)
    recipes = recipes_of(cifar["augment"]["pretrain"], "cifar10", section.get("augment"), f"{profile}:{name}")
    with seeded(seed):
        backbone = build_backbone(architecture, channels=3)
        method = kind(backbone, own_settings, classes=10)
    return Pretraining(
        name, backbone, method, training, recipes, *sets,
        mean=about["mean"], std=about["std"], seed=seed, machine=here,
    )  # fmt: skip


def shown(name: str, rows: list[Row], controls: list[Row]) -> str:
    """Return the line of an objective: means over seeds, with standard deviations where there are several."""

    def over_seeds(values: list[float]) -> str:
        spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
        return f"{np.mean(values):.3f}{spread}"

    knn = [row.right.mean() for row in rows]
    pairs = list(zip(rows, controls, strict=True))
    gains = [row.right.mean() - control.right.mean() for row, control in pairs]
    z = min(standardised(row.right, control.right) for row, control in pairs)
    speed = f"{np.mean([row.seconds for row in rows]):8.1f} {np.mean([row.views for row in rows]):8.0f}"
    linear = over_seeds([row.linear for row in rows])
    return f"{name:22} {over_seeds(knn):>13} {over_seeds(gains):>13} {z:6.1f} {linear:>13} {speed}"


def standardised(right: np.ndarray, control: np.ndarray) -> float:
    """Return McNemar's statistic (b - c) / sqrt(b + c) of the images that one alone names rightly."""
    gained, lost = (right & ~control).sum(), (control & ~right).sum()
    return float((gained - lost) / np.sqrt(max(1, gained + lost)))


@click.command()
@click.argument("objectives", nargs=-1, type=click.Choice(sorted(OBJECTIVES)))
@click.option("--gpu", is_flag=True, help="ResNet-18, all images, 200 epochs.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1))
@click.option("--epochs", type=click.IntRange(1), help="Instead of the form's number of epochs.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Instead of the profile's.")
def main(
    objectives: tuple[str, ...], gpu: bool, seeds: int, epochs: int | None, precision: Precision | None
) -> None:
    """Train and print a line per objective, as soon as it is known."""
    form = LARGE if gpu else SMALL
    given = {"epochs": epochs, "precision": precision}
    form = replace(form, changes={**form.changes, **{key: value for key, value in given.items() if value}})
    wanted = objectives or (*FIRST, *sorted(set(OBJECTIVES) - set(FIRST)))
    with tempfile.TemporaryDirectory() as folder:
        tensors, meta = image_set(folder, "cifar10", "id", form.size, form.limit)
        print(f"{form.architecture}, {form.size} px, {meta['splits']}, {form.changes}, {seeds} seeds")
        columns = f"{'kNN':>13} {'gain':>13} {'z':>6} {'linear':>13} {'seconds':>8} {'views/s':>8}"
        print(f"{'objective':22} {columns}")
        controls: list[Row] = []
        for name in ["scratch", *(name for name in wanted if name != "scratch")]:
            rows = [train(name, form, tensors, meta, seed) for seed in range(seeds)]
            controls = controls or rows
            print(shown(name, rows, controls), flush=True)


if __name__ == "__main__":
    main()
