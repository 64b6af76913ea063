"""Clipping and accumulation, on a network without batch statistics where they have closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from stages.core.cli import strict
from stages.data.augment import Recipe
from stages.data.resident import ResidentSet
from stages.machine import machine
from stages.models.build import seeded
from stages.selfsup.pretraining import Pretraining, Training
from stages.selfsup.supce import SupCE

SHARED = {
    "epochs": 2, "batch_size": 32, "optimiser": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0,
    "schedule": "constant", "warmup_epochs": 0, "clip": 0.0, "accumulate": 1, "save_every": 1, "knn_every": 0,
}  # fmt: skip


class Linear(nn.Module):
    feature_dim = 8

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 8)

    def forward(self, x):
        return self.layer(x.flatten(1)).relu()


def weights_after(monkeypatch, **changes):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    digits = load_digits()
    data = ResidentSet(digits.images[:256, None].astype(np.uint8) * 15, digits.target[:256], "cpu")
    with seeded(0):
        backbone = Linear()
        objective = SupCE(backbone, SimpleNamespace(), classes=10)
    training = strict(Training, {**SHARED, **changes}, "pretrain")
    run = Pretraining(
        "toy", backbone, objective, training, (Recipe(), Recipe()), data, data, mean=[0.3], std=[0.4],
        seed=0, machine=machine(),
    )  # fmt: skip
    run.run(None)
    return torch.cat([weight.detach().flatten() for weight in run.modules.parameters()])


def test_two_batches_of_32_accumulated_are_one_of_64(monkeypatch):
    whole = weights_after(monkeypatch, batch_size=64)
    parts = weights_after(monkeypatch, batch_size=32, accumulate=2)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert (weights_after(monkeypatch, batch_size=32) - whole).abs().max() > 1e-3


def test_a_clipped_step_is_as_long_as_the_rate_times_the_clip(monkeypatch):
    start = weights_after(monkeypatch, lr=0.0)
    clipped = weights_after(monkeypatch, epochs=1, batch_size=256, clip=0.01)
    free = weights_after(monkeypatch, epochs=1, batch_size=256)
    assert (clipped - start).norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)
    turned = torch.cosine_similarity(clipped - start, free - start, dim=0)
    assert turned.item() == pytest.approx(1, abs=1e-4)
