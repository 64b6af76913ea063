"""A few seconds of training on real digits: what an objective learns shows in its kNN accuracy."""

import numpy as np
from sklearn.datasets import load_digits

from sslood.core.machine import machine
from sslood.core.settings import strict
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.selfsup.settings import PretrainSettings
from tests.kit.registries import objective_class
from tests.kit.training import PRETRAIN, objective_settings

SETTINGS = {
    **PRETRAIN, "epochs": 16, "batch_size": 128, "optimiser": "adamw", "lr": 0.01, "weight_decay": 1e-4,
    "schedule": "cosine", "warmup_epochs": 1, "knn_every": 16,
}  # fmt: skip
RECIPE = AugmentSettings(crop_scale_min=0.4, jitter=0.8, brightness=0.5, contrast=0.5)


def trained(monkeypatch, name, **changes):
    """Return the last row of the curves: kNN accuracy on 797 digits that the training has not seen."""
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)[:, None]
    sets = [
        ResidentSet(images[part], digits.target[part], "cpu") for part in (slice(1000), slice(1000, None))
    ]
    kind = objective_class(name)
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        objective = kind(backbone, objective_settings(name, **changes), classes=10)
    training = strict(PretrainSettings, SETTINGS, "pretrain")
    run = Pretraining(
        name, backbone, objective, training, (RECIPE, RECIPE), *sets, mean=[0.3], std=[0.38], seed=0,
        machine=machine(),
    )  # fmt: skip
    return run.run(None)[-1]


BAYES = {"projector": [64, 64], "samples": 2}
LEARNERS = {"supce": ({}, 0.2), "bayes_h_barlow_twins": (BAYES, 0.04), "bayes_z_barlow_twins": (BAYES, 0.08)}


def test_objectives_learn_what_the_untrained_encoder_does_not_know(monkeypatch):
    untrained = trained(monkeypatch, "scratch")["knn"]
    for name, (changes, more) in LEARNERS.items():
        accuracy = trained(monkeypatch, name, **changes)["knn"]
        assert accuracy > untrained + more, f"{name}: {accuracy}, untrained {untrained}"
