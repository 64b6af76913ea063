"""What decides a training against outliers: loss, margins, batch norm, order of the outliers, schedule.

    make profile P=cifar10-outliers-small && make repro    # or: dvc repro audit adopt
    python -m benchmarks.outliers --images 2560 --tested 1000 --batch 64 --epochs 2   # 20 minutes on one core
    python -m benchmarks.outliers --seeds 3 --epochs 10    # all images: for one GPU
    python -m benchmarks.outliers --figure                 # the sweep of margins as SVG, from the table

Each variant fine-tunes the same published classifier on the same images with the same random streams; only
what its name says differs. The score is the energy, of `oe` also 1 - MSP. One row per variant and seed goes
to --out as soon as it is there, and rows that are there are not measured again.
"""

import csv
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from sslood.core.errors import InputError
from sslood.core.files import load_json, load_tensors
from sslood.core.machine import machine
from sslood.core.settings import checked, read_section, read_value
from sslood.data.images.augment import read_recipe
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.energy import energy, quantiles
from sslood.nets.methods.outlier_runs import start_model
from sslood.nets.methods.outliers import Outliers, OutlierSettings
from sslood.nets.training.engine import Engine
from sslood.nets.training.schedules import learning_rate
from sslood.ood.measures.metrics import ood_metrics
from sslood.report.figures import COLOURS, drawing, svg

ENERGY, OE = {"loss": "energy"}, {"loss": "oe", "weight": 0.5}
BACKGROUND = {"loss": "background", "weight": 1.0}
GAPS = (-0.25, 0.5, 1.0, 2.0, 4.0)  # beside 0
VARIANTS: dict[str, dict[str, Any]] = {
    "start": {},
    "energy": ENERGY,
    "oe": OE,
    "background": BACKGROUND,
    **{f"gap {gap:g}": {**ENERGY, "gap": gap} for gap in GAPS},
    "margins -23, -5": {**ENERGY, "margins": "fixed", "m_in": -23.0, "m_out": -5.0},
    "energy, joint batch norm": {**ENERGY, "batch_norm": "joint"},
    "energy, separate batch norm": {**ENERGY, "batch_norm": "separate"},
    "oe, joint batch norm": {**OE, "batch_norm": "joint"},
    "oe, separate batch norm": {**OE, "batch_norm": "separate"},
    "energy, outliers in order": {**ENERGY, "order": True},
    "energy, cosine per epoch": {**ENERGY, "stepped": True},
    "energy, constant rate": {**ENERGY, "schedule": "constant"},
    "energy, plain momentum": {**ENERGY, "nesterov": False},
    "energy, head": {**ENERGY, "mode": "head"},
    "oe, head": {**OE, "mode": "head"},
}
COLUMNS = (
    *("accuracy", "validation_accuracy", "validation_auroc", "validation_oscr"),
    *("energy_id", "energy_auxiliary"),
    *("_".join(parts) for parts in product(("energy", "msp"), ("near", "far"), ("auroc", "fpr95_id"))),
)


class PerEpoch(OutlierSettings):
    """The rate of the first step of an epoch throughout it."""

    def rate(self, step: int, steps: int) -> float:
        at = step // steps * steps
        return learning_rate(
            self.schedule, at, self.epochs * steps, base=self.lr, final=self.final_lr, warmup=0
        )


class InOrder(Outliers):
    """Outliers pass in the order of their file, on from where an epoch stopped, as in published code."""

    passed = 0

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self._outlier_indices = self._in_order()

    def _in_order(self) -> Iterator[Tensor]:
        while True:
            rows = torch.arange(self.passed, self.passed + self.outlier_batch_size) % len(self.outliers)
            self.passed = (self.passed + self.outlier_batch_size) % len(self.outliers)
            yield rows.to(self.outliers.order_device)


def rows_of(path: Path, split: str, count: int, device: torch.device, without: Any = ()) -> ResidentSet:
    """Return `count` images of a split (0 = all) on the device, drawn alike in every run."""
    tensors, _ = load_tensors(path, kind="set", only=[f"{split}.images", f"{split}.labels"])
    images, labels = tensors[f"{split}.images"], tensors[f"{split}.labels"]
    kept = np.setdiff1d(np.arange(len(labels)), np.array(without, np.int64))
    rows = np.sort(np.random.default_rng(0).permutation(kept)[: count or len(kept)])
    return ResidentSet(images[rows], labels[rows], device)


@click.command()
@click.option("--data", default="data", type=click.Path(path_type=Path), help="Folder that the stages write.")
@click.option("--model", default="resnet20", help="Model to start from, without the seed.")
@click.option("--images", default=0, help="Training images of ID and auxiliary set each, 0 = all.")
@click.option("--tested", default=0, help="Images of each test set, 0 = all.")
@click.option("--seeds", default=1, help="Number of seeds.")
@click.option("--epochs", default=3)
@click.option("--batch", default=128, help="ID images and outliers of a batch, each.")
@click.option("--rate", default=0.001, help="Learning rate.")
@click.option("--only", multiple=True, help="A variant; may be repeated.")
@click.option("--out", default="outliers.csv", type=click.Path(path_type=Path))
@click.option("--figure", is_flag=True, help="Write the figure of --out beside it, and nothing else.")
def main(data, model, images, tested, seeds, epochs, batch, rate, only, out, figure):
    if figure:
        out.with_suffix(".svg").write_text(sweep(out))
        return
    section = read_section("params.yaml:energy")
    changes = {"epochs": epochs, "batch_size": batch, "auxiliary_batch_size": batch, "lr": rate}
    here, recipe = machine(section["precision"]), read_recipe("params.yaml:augment.classifier")
    sets, roles = data / "sets", read_section("params.yaml:sets")
    own, auxiliary = read_value("params.yaml:id"), read_value("params.yaml:auxiliary")
    chosen_on = read_value("params.yaml:tuning")
    left_out = load_json(data / "outliers.json")[auxiliary]["positions"]
    train = rows_of(sets / f"{own}.safetensors", "train", images, here.device)
    validation, known = (
        rows_of(sets / f"{own}.safetensors", s, tested, here.device) for s in ("validation", "test")
    )
    others = rows_of(sets / f"{auxiliary}.safetensors", "train", images, here.device, left_out)
    tuning = rows_of(sets / f"{chosen_on}.safetensors", "validation", tested, here.device)
    unknown = {
        (entry["role"], name): rows_of(sets / f"{name}.safetensors", "test", tested, here.device)
        for name, entry in roles.items()
        if entry["role"] in ("near", "far")
    }
    done = {(row["variant"], row["seed"]) for row in read(out)}
    for seed in range(seeds):
        for name in only or VARIANTS:
            if (name, str(seed)) in done:
                continue
            variant = dict(VARIANTS[name])
            order, stepped = variant.pop("order", False), variant.pop("stepped", False)
            mode = variant.pop("mode", "full")
            settings = checked(OutlierSettings, {**section, "loss": "energy", **changes, **variant}, name)
            if stepped:
                settings = PerEpoch(**vars(settings))
            network, card, fresh = start_model(
                data / f"models/{model}-{seed}.safetensors", sets / f"{own}.safetensors", seed
            )
            task = (InOrder if order else Outliers)(
                network, train, validation, others, tuning.images, mode=mode, fresh_head=fresh, recipe=recipe,
                preprocessing=card.preprocessing, label=name, settings=settings, seed=seed, machine=here,
            )  # fmt: skip
            started = time.monotonic()
            found = outcome(task, known, unknown, trained=name != "start")
            row = {"variant": name, "seed": seed, "seconds": round(time.monotonic() - started)}
            append(out, {**row, **found})


def outcome(task, known, unknown, *, trained: bool) -> dict[str, Any]:
    """Return what is measured after the training, or of the start; "nan" throughout where it diverges."""
    try:
        curves = Engine(task).train(None) if trained else [task.watch(0)]
    except InputError as reason:
        print(reason, flush=True)
        return dict.fromkeys(COLUMNS, "nan")
    return measured(task, known, unknown, curves)


def measured(task, known, unknown, curves) -> dict[str, Any]:
    """Return accuracy, medians of energies, and near and far means, of the energy and of 1 - MSP."""
    inside = task.predict(known.images)
    half = torch.tensor([0.5], dtype=torch.float64)
    found: dict[str, Any] = {"accuracy": float((inside.argmax(1) == known.labels).float().mean())}
    found |= {key: value for key, value in curves[-1].items() if key.startswith("validation")}
    aside = {"id": inside, "auxiliary": task.predict(task.outliers.images[:2000])}
    found |= {f"energy_{key}": quantiles(energy(value), half).item() for key, value in aside.items()}
    logits = {key: task.predict(data.images) for key, data in unknown.items()}
    for score, of in (("energy", energy), ("msp", lambda x: 1 - x.softmax(1).amax(1))):
        for role in ("near", "far"):
            both = [
                ood_metrics(of(inside).cpu().numpy(), of(x).cpu().numpy())
                for key, x in logits.items()
                if key[0] == role
            ]
            for metric in ("auroc", "fpr95_id"):
                found[f"{score}_{role}_{metric}"] = float(np.mean([one[metric] for one in both]))
    return {key: f"{found[key]:.5g}" for key in COLUMNS}


def sweep(path: Path) -> str:
    """Return the SVG of what the distance of the margins does: AUROC and accuracy, means over seeds."""
    rows = [{**row, "gap": 0.0 if row["variant"] == "energy" else row["variant"]} for row in read(path)]
    rows = [row for row in rows if str(row["gap"]).startswith(("0.0", "gap"))]
    gaps = sorted({float(str(row["gap"]).removeprefix("gap ")) for row in rows})
    lines = {"near AUROC": "energy_near_auroc", "far AUROC": "energy_far_auroc", "accuracy": "accuracy"}
    with drawing() as figure:
        figure.set_size_inches(5, 3)
        axis = figure.subplots()
        for colour, (label, column) in zip(COLOURS[1:], lines.items(), strict=False):
            at = {gap: [float(r[column]) for r in rows if str(r["gap"]).endswith(f"{gap:g}")] for gap in gaps}
            axis.plot(gaps, [100 * np.mean(at[gap]) for gap in gaps], "o-", color=colour, label=label)
        start = [100 * float(row["energy_far_auroc"]) for row in read(path) if row["variant"] == "start"]
        axis.axhline(np.mean(start), color=COLOURS[2], linestyle=":", label="far AUROC before")
        axis.set_xlabel("gap: how much farther apart than the start model's medians")
        axis.set_ylabel("%")
        axis.legend(frameon=False)
        return svg(figure, "sweep")


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of the table, [] before there is one."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the table and print it."""
    new = not path.is_file()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
