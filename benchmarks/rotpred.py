"""RotPred beside plain cross-entropy on real CIFAR-10: AUROC of their scores against real OOD sets.

    python -m benchmarks.rotpred              # resnet-8-16 at 16 px, 45,000 images, 6 epochs: 10 minutes
    python -m benchmarks.rotpred --epochs 20

Both train equally many epochs with the constants of profiles/objectives.yaml and are asked by the detectors
of the stages, on all test images. `msp` and `kl_uniform` (-KL(uniform || p), the classes' part of the joint
score) need no rotation head; `rotation` is the other part, `rotpred` the sum. Sets come from the mirror
(SSLOOD_DATA_MIRROR) or from their publishers. Larger is better throughout; 50 is chance.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import click
import numpy as np
import torch

from benchmarks.learning import SMALL, image_set, prepare
from sslood.nets.networks.model import Model
from sslood.ood.kit.network_detector import Network
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.network.rotation import Rotation
from sslood.ood.network.rotpred import RotPred
from sslood.views.opened import open_model

SETS = ("cifar100", "tiny_imagenet", "textures", "mnist")
Score = Callable[[np.ndarray], np.ndarray]


def class_logs(network: Network, images: np.ndarray) -> torch.Tensor:
    """Return log p(class | x), float64 [N, K]."""
    with torch.inference_mode():
        return torch.cat(
            [network.gradients(part).double().log_softmax(1) for part in network.batches(images)]
        )


def scores(network: Network) -> dict[str, Score]:
    """Return the scores that a network allows by name; larger = more OOD."""
    known: dict[str, Score] = {
        "msp": lambda images: -class_logs(network, images).amax(1).cpu().numpy(),
        "kl_uniform": lambda images: class_logs(network, images).mean(1).cpu().numpy(),
    }
    for name, kind in (("rotation", Rotation), ("rotpred", RotPred)):
        detector = kind()
        if detector.suits(network):
            known[name] = partial(detector.fit(network, {}).score, network)
    return known


@click.command()
@click.option("--epochs", default=6, show_default=True, type=click.IntRange(1))
def main(epochs: int) -> None:
    """Train both and print a line per network and score."""
    form = replace(SMALL, limit=0, changes={"epochs": epochs, "batch_size": 128, "knn_every": 0})
    with tempfile.TemporaryDirectory() as folder:
        tensors, meta = image_set(folder, "cifar10", "id", form.size)
        found = {name: image_set(folder, name, "far", form.size)[0] for name in SETS}
        tests = {name: found["test.images"] for name, found in {"cifar10": tensors, **found}.items()}
    print(f"{'objective':10} {'accuracy':>8} {'score':>11} {' '.join(f'{name:>13}' for name in SETS)}")
    for objective in ("supce", "rotpred"):
        run, _ = prepare(objective, form, tensors, meta, seed=0)
        run.run(None)
        heads = run.objective.saved_modules()
        model = Model(run.backbone, head=heads["head"], rotation=heads.get("rotation"))
        network = open_model(model, mean=meta["mean"], std=meta["std"], device=run.machine.device)
        guesses = class_logs(network, tests["cifar10"]).argmax(1).cpu().numpy()
        accuracy = (guesses == tensors["test.labels"]).mean()
        for name, score in scores(network).items():
            found = {key: score(images) for key, images in tests.items()}
            aurocs = [ood_metrics(found["cifar10"], found[key])["auroc"] for key in SETS]
            numbers = " ".join(f"{100 * value:13.1f}" for value in aurocs)
            print(f"{objective:10} {accuracy:8.3f} {name:>11} {numbers}", flush=True)


if __name__ == "__main__":
    main()
