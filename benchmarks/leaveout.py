"""Leave-out ensembles and their controls on real CIFAR-10: AUROC of every row against real OOD sets.

python -m benchmarks.leaveout --seeds 3           # resnet-8-16 at 16 px, 9,000 training images, 10 epochs
python -m benchmarks.leaveout --limit 0 --size 32 --arch wideresnet-28-10-30 --epochs 100   # for one GPU

Five members each: `margin` with the margin between batch means (batch, as published) and over pairs of images
(image), `plain` (no margin) and `full` (all classes: a deep ensemble). All members of a fold start from the
same weights and see the same images. Temperature, step and target are chosen on the left-out classes of ID
validation; `full` has none and takes those of `margin image`. Near is the mean of cifar100 and tiny_imagenet,
far of textures and mnist, in %, mean and standard deviation over seeds. The sweep shows near and far for each
temperature and step, which is what choosing on test sets would give. Sets come from the mirror
(SSLOOD_DATA_MIRROR) or from their publishers; --sets names a folder of set files that were written before.
"""

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.learning import image_set
from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.core.seeding import stream_seed
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.leaveout import Leaveout, LeaveoutSettings, PlainMember, fold_classes
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.engine import Engine
from sslood.ood.measures.metrics import ood_metrics
from sslood.views.choosing import choose
from sslood.views.classes import class_predictions
from sslood.views.ensemble import EnsembleSettings, Member, Setting, ask, score_rows

GROUPS = {"near": ("cifar100", "tiny_imagenet"), "far": ("textures", "mnist")}
KINDS = (("margin", "batch"), ("margin", "image"), ("plain", "batch"), ("full", "batch"))
CANDIDATES = EnsembleSettings(
    (1.0, 1000.0), (0.0, 0.001, 0.004), ("predicted", "entropy"), "leftout", "float32"
)
SHOWN = 1000  # validation and test images where images are limited
Sets = dict[str, dict[str, Any]]


def read_sets(folder: str | None, size: int, limit: int) -> tuple[Sets, dict[str, Any]]:
    """Return (set -> tensors, metadata of CIFAR-10), from `folder` or as `download` makes them."""
    names = ("cifar10", *(name for group in GROUPS.values() for name in group))
    with tempfile.TemporaryDirectory() as made:
        found = {}
        for name in names:
            if folder:
                found[name] = load_tensors(Path(folder) / f"{name}.safetensors", kind="set")
            else:
                found[name] = image_set(made, name, "id" if name == "cifar10" else "far", size, limit)
        cut = {"train": None, "validation": limit and SHOWN, "test": limit and SHOWN}
        tensors = {
            name: {key: np.array(values[: cut[key.split(".")[0]] or None]) for key, values in part.items()}
            for name, (part, _) in found.items()
        }
        return tensors, found["cifar10"][1]


def member(
    kind: tuple[str, str], fold: int, seed: int, sets: Sets, meta: Any, arch: str, epochs: int
) -> Member:
    """Train one member."""
    own, here = sets["cifar10"], machine("float32")
    kept, left = fold_classes(10, range(5), fold, 3)
    kept = sorted(kept + left) if kind[0] == "full" else kept
    options = LeaveoutSettings(
        epochs=epochs, batch_size=100, accumulate=1, optimiser="sgd", lr=0.1, final_lr=0.0, schedule="steps",
        warmup_epochs=0, momentum=0.9, nesterov=True, weight_decay=5e-4, clip=0.0, precision="float32",
        save_every=100, beta=0.2, margin=0.4, margin_of=kind[1], select="last", folds=tuple(range(5)), seed=3,
    )  # fmt: skip
    start = stream_seed(seed, "leaveout", fold)
    with seeded(start, arch):
        network = build_backbone(arch, channels=3)
        head = build_head(network.feature_dim, len(kept))
    tensors = {key: torch.from_numpy(values) for key, values in own.items()}
    parts = (
        ResidentSet(tensors[f"{split}.images"], tensors[f"{split}.labels"], here.device)
        for split in ("train", "validation")
    )
    task = (Leaveout if kind[0] == "margin" else PlainMember)(
        Model(network, head), *parts, kept=kept, settings=options, preprocessing=meta, seed=start,
        recipe=AugmentSettings(pad=meta["size"] // 8, flip=0.5), label=f"{' '.join(kind)} {fold}",
        machine=here,
    )  # fmt: skip
    Engine(task).train(None)
    model = task.model.eval().requires_grad_(False)
    return Member(model, kept, meta["mean"], meta["std"], name=f"{fold}")


def groups(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the mean AUROC of each group of sets, in %."""
    return {
        role: 100 * float(np.mean([ood_metrics(scores["cifar10"], scores[name])["auroc"] for name in names]))
        for role, names in GROUPS.items()
    }


def scored(
    members: list[Member], chosen: Setting, tests: dict[str, np.ndarray], device: torch.device
) -> tuple[dict[str, dict[str, np.ndarray]], list[np.ndarray]]:
    """Return (row or setting of the sweep -> set -> scores, each member's logits of the ID images)."""
    sweep = {f"T {t:g}, step {e:g}": Setting(t, e) for t in CANDIDATES.temperatures for e in (0.0, 0.004)}
    lines: dict[str, dict[str, np.ndarray]] = {}
    said = {}
    for name, images in tests.items():
        answers = [ask(one, images, [chosen, *sweep.values()], device=device) for one in members]
        logits = [answer.logits for answer in answers]
        rows = score_rows(members, [answer.votes[0] for answer in answers], logits, 10)
        for place, key in enumerate(sweep, 1):
            rows[key] = sum(answer.votes[place].score for answer in answers)
        for key, scores in rows.items():
            lines.setdefault(key, {})[name] = scores
        said[name] = logits
    return lines, said["cifar10"]


@click.command()
@click.option("--arch", default="resnet-8-16", show_default=True)
@click.option("--size", default=16, show_default=True)
@click.option(
    "--limit",
    default=10_000,
    show_default=True,
    help="Training images, 0 = all; then at most 1,000 of each other split.",
)
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1))
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1))
@click.option("--sets", "folder", help="Folder of set files.")
def main(arch: str, size: int, limit: int, epochs: int, seeds: int, folder: str | None) -> None:
    """Train, evaluate and print a line per kind of members and row."""
    sets, meta = read_sets(folder, size, limit)
    own, device = sets["cifar10"], machine("float32").device
    tests = {name: part["test.images"] for name, part in sets.items()}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(seeds):
        chosen = Setting()
        for kind in KINDS:
            members = [member(kind, fold, seed, sets, meta, arch, epochs) for fold in range(5)]
            if kind[0] != "full":
                validation = own["validation.images"], own["validation.labels"]
                chosen, _ = choose(members, *validation, None, CANDIDATES, device=device)
            lines, logits = scored(members, chosen, tests, device)
            told = class_predictions(members, logits, own["test.labels"], 10)
            accuracy = np.mean([one["accuracy"] for one in told["members"].values()])
            print(f"{' '.join(kind)}, seed {seed}: {chosen}, accuracy {told['accuracy']:.3f}, of the members "
                  f"{accuracy:.3f}, ECE {told['mistakes']['ece']:.3f}", flush=True)  # fmt: skip
            for name, scores in lines.items():
                found.setdefault((" ".join(kind), name), []).append(groups(scores))
    for (kind_name, name), values in found.items():
        cells = []
        for role in GROUPS:
            numbers = [value[role] for value in values]
            spread = f" ± {np.std(numbers, ddof=1):.1f}" if seeds > 1 else ""
            cells.append(f"{role} {np.mean(numbers):.1f}{spread}")
        print(f"{kind_name:13} {name:20} {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
