"""A GPU's results in float32 against the CPU's: steps of training, embeddings, scores of detectors.

    python -m benchmarks.agreement            # on CUDA: some seconds; exit status 1 names what differs
    python -m benchmarks.agreement --small    # the CPU against itself: a try of this file

Each check is done on both devices from one start with one set of draws, which come from the CPU, with a tiny
ResNet: STEPS steps of every SSL objective, of a classifier, of energy margins against outliers and of a
leave-out member, the embeddings of a classifier, and the scores of kNN and Mahalanobis on them. What is
compared is relative to the largest number of the CPU's. TF32 is off.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks.learning import PROFILES, objective_run
from sslood.core.machine import Machine, machine
from sslood.core.settings import checked
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.inference.extract import extract
from sslood.nets.methods.classify import Classify, ClassifySettings
from sslood.nets.methods.leaveout import Leaveout, LeaveoutSettings
from sslood.nets.methods.outliers import Outliers, OutlierSettings
from sslood.nets.methods.supervised import Supervised
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.training.engine import Engine
from sslood.ood.kit.outputs import Outputs
from sslood.ood.posthoc.knn import KNN, KNNSettings
from sslood.ood.posthoc.mahalanobis import Mahalanobis
from tests.kit.registries import OBJECTIVES

STEPS, BATCH, SIZE, IMAGES = 3, 64, 32, 256
ARCHITECTURE = "resnet-8-4"
ABOUT = {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}
PLAIN = {"optimiser": "sgd", "lr": 0.01, "warmup_epochs": 0, "batch_size": BATCH, "precision": "float32"}
# On an H200 most objectives agreed to 1e-6, these to 5e-4: their sum over squared correlations magnifies
# rounding, and a CPU with one thread differs from itself with two by as much.
TOLERANCE, CORRELATIONS = 1e-4, 5e-3
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Check:
    """What is done on a device, and how far apart its values may be on two, relative to the largest."""

    run: Callable[[Machine], Values]
    tolerance: float = TOLERANCE


def draws(shape: tuple[int, ...], here: Machine, seed: int) -> Tensor:
    """Return normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(here.device)


def images(here: Machine) -> ResidentSet:
    """Return IMAGES random images of ten classes, brighter by class, so that there is something to learn."""
    labels = np.arange(IMAGES) % 10
    noise = np.random.default_rng(0).integers(0, 128, (IMAGES, 3, SIZE, SIZE))
    return ResidentSet((noise + 12 * labels[:, None, None, None]).astype(np.uint8), labels, here.device)


# ---- training ------------------------------------------------------------------------------------


def pretraining(name: str, here: Machine) -> Pretraining:
    """Return a run of an objective with the constants of profile objectives."""
    data, changes = images(here), {**PLAIN, "accumulate": 1, "knn_every": 0}
    return objective_run(name, ARCHITECTURE, "objectives", changes, [data, data], ABOUT, here)


def objective(name: str, here: Machine) -> Values:
    """Take steps of an objective on views of normal numbers."""
    task = pretraining(name, here)
    optimiser, method = Engine(task).optimiser, task.objective
    task.begin_epoch(1)
    method.before_epoch(1, torch.Generator().manual_seed(0))
    losses = []
    for step in range(STEPS):
        shape = (BATCH, 3, SIZE, SIZE)
        views = [draws(shape, here, 10 * step + place) for place in range(method.views)]
        labels = (torch.arange(BATCH) % 10).to(here.device)
        method.before_batch(BATCH)
        if hasattr(method, "noise"):  # a stochastic objective's
            method.noise = method.noise.to(here.device)
        optimiser.zero_grad()
        loss, _ = method(task.backbone, views, labels)
        loss.backward()
        optimiser.step()
        method.after_step(task.backbone, step, 100)
        losses.append(loss.detach())
    return {"loss": torch.stack(losses), "weights": weights(task.modules)}


def classifier() -> Model:
    """Return a classifier of ten classes before training."""
    with seeded(0):
        backbone = build_backbone(ARCHITECTURE, channels=3)
        return Model(backbone, build_head(backbone.feature_dim, 10))


def supervised(kind: type[Supervised], here: Machine) -> Supervised:
    """Return a training of that kind with the constants of the quickstart."""
    quickstart = yaml.safe_load((PROFILES / "quickstart.yaml").read_text(encoding="utf-8"))
    sections: Mapping[type[Supervised], tuple[str, type, dict[str, Any]]] = {
        Classify: ("train", ClassifySettings, {}),
        Outliers: ("energy", OutlierSettings, {"loss": "energy", "batch_norm": "joint"}),
        Leaveout: ("leaveout", LeaveoutSettings, {}),
    }
    section, settings, changes = sections[kind]
    data, own = images(here), checked(settings, {**quickstart[section], **PLAIN, **changes}, section)
    how: dict[str, Any] = {
        "recipe": AugmentSettings(), "preprocessing": ABOUT, "label": section, "seed": 0, "machine": here,
        "settings": own,
    }  # fmt: skip
    if kind is Outliers:
        how |= {"mode": "full", "fresh_head": True, "auxiliary": data, "tuning": data.images}
    if kind is Leaveout:
        how["kept"] = list(range(10))[: -len(own.folds)]
    return kind(classifier(), data, data, **how)


def steps(kind: type[Supervised], here: Machine) -> Values:
    """Take steps of a training on images of normal numbers; where it has outliers, half of them are."""
    task = supervised(kind, here)
    engine = Engine(task)
    task.begin_epoch(0)
    count = BATCH if kind is Classify else 2 * BATCH
    labels, losses = (torch.arange(BATCH) % 4).to(here.device), []
    for step in range(STEPS):
        batch = draws((count, 3, SIZE, SIZE), here, step), labels
        losses.append(engine.step(step, iter([batch]))["loss"])
    return {"loss": torch.stack(losses), "weights": weights(task.modules)}


def weights(modules: torch.nn.Module) -> Tensor:
    """Return all weights as one vector."""
    return torch.cat([weight.detach().flatten() for weight in modules.parameters()])


# ---- evaluation ----------------------------------------------------------------------------------


def embedded(here: Machine) -> dict[str, np.ndarray]:
    """Return features and logits of the images."""
    model = classifier().to(here.device)
    return extract(model, images(here).images.split(100), **ABOUT)


def embeddings(here: Machine) -> Values:
    return {name: torch.from_numpy(values) for name, values in embedded(here).items()}


def scores(detector: Callable[..., Any], here: Machine) -> Values:
    """Return the scores of half of the images by a detector that is fitted to the other half."""
    found, labels = embedded(here), np.arange(IMAGES) % 10
    halves = [
        Outputs(name, features=found["features"][rows], labels=labels[rows], classes=10)
        for name, rows in (("train", slice(0, IMAGES // 2)), ("test", slice(IMAGES // 2, None)))
    ]
    fitted = detector(device=str(here.device)).fit(halves[0])
    return {"scores": torch.from_numpy(fitted.score(halves[1]))}


CHECKS: dict[str, Check] = {
    **{
        name: Check(partial(objective, name), CORRELATIONS if "barlow" in name else TOLERANCE)
        for name in sorted(set(OBJECTIVES) - {"scratch"})
    },
    "classifier": Check(partial(steps, Classify)),
    "energy margins": Check(partial(steps, Outliers)),
    "leave-out member": Check(partial(steps, Leaveout)),
    "embeddings": Check(embeddings),
    "knn": Check(partial(scores, partial(KNN, KNNSettings(k=5)))),
    "mahalanobis": Check(partial(scores, Mahalanobis), CORRELATIONS),  # divides by small eigenvalues
}


# ---- comparison ----------------------------------------------------------------------------------


@contextmanager
def without_tf32():
    """Context in which convolutions and products are computed in float32 throughout."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def difference(mine: Tensor, theirs: Tensor) -> float:
    """Return the largest difference over the largest number of `theirs`; NaN where one is not finite."""
    mine, theirs = mine.detach().cpu().double(), theirs.detach().cpu().double()
    return ((mine - theirs).abs().max() / theirs.abs().max()).item()


def compare(
    device: torch.device, other: torch.device, checks: Mapping[str, Check] = CHECKS
) -> dict[str, str]:
    """Print how far `device` is from `other`, check by check; return what differs by more than it may.

    Returns {check: its values that differ, with by how much and how much they may}.
    """
    print(f"{STEPS} steps in float32 on {device} and on {other}, {ARCHITECTURE}; what differs, relative")
    plain, wrong = replace(machine(), compile=False), {}
    for name, check in checks.items():
        with without_tf32():
            mine, theirs = (check.run(replace(plain, device=one)) for one in (device, other))
        apart = {key: difference(mine[key], theirs[key]) for key in mine}
        shown = ", ".join(f"{key} {value:.1e}" for key, value in apart.items())
        # written so that NaN differs
        if far := [key for key, value in apart.items() if not value <= check.tolerance]:
            wrong[name] = f"{', '.join(f'{key} {apart[key]:.1e}' for key in far)} > {check.tolerance:g}"
        print(f"{name:22} {shown}{'  DIFFERS' if name in wrong else ''}", flush=True)
    return wrong


def refuse(wrong: Mapping[str, str]) -> None:
    """End the process with status 1 and the names of what differs, if anything does."""
    if wrong:
        named = "; ".join(f"{name}: {how}" for name, how in wrong.items())
        sys.exit(f"the device's results are not the CPU's: {named}")


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    device = torch.device("cpu") if "--small" in words else machine().device
    if device.type == "cpu" and "--small" not in words:
        sys.exit("benchmarks.agreement: no CUDA device; try it with --small")
    refuse(compare(device, torch.device("cpu")))


if __name__ == "__main__":
    main()
