"""Clipping and accumulation, on a network without batch statistics where they have closed forms."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from sslood.core.errors import InputError
from sslood.core.machine import machine
from sslood.core.settings import strict
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.networks.backbone import Backbone
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.objectives.supce import SupCE
from sslood.nets.selfsup.objective import TwoViews
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.selfsup.settings import PretrainSettings
from sslood.nets.training.watch import check_steps
from tests.kit.training import PRETRAIN

SETTINGS = {**PRETRAIN, "momentum": 0.0}


class Linear(Backbone):
    feature_dim = 8

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 8)

    def forward(self, x):
        return self.layer(x.flatten(1)).relu()


def weights_after(monkeypatch, **changes):
    run = finished(monkeypatch, **changes)
    return torch.cat([weight.detach().flatten() for weight in run.modules.parameters()])


def finished(monkeypatch, **changes):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    digits = load_digits()
    data = ResidentSet(digits.images[:256, None].astype(np.uint8) * 15, digits.target[:256], "cpu")
    with seeded(0):
        backbone = Linear()
        objective = SupCE(backbone, SimpleNamespace(), classes=10)
    training = strict(PretrainSettings, {**SETTINGS, **changes}, "pretrain")
    run = Pretraining(
        "toy", backbone, objective, training, (AugmentSettings(),) * 2, data, data,
        mean=[0.3], std=[0.4], seed=0, machine=machine(),
    )  # fmt: skip
    run.curves = run.run(None)
    return run


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


def test_the_steps_of_the_rate_count_in_epochs(monkeypatch):
    run = finished(monkeypatch, epochs=8, schedule="steps", warmup_epochs=2)
    assert [row["lr"] for row in run.curves] == pytest.approx(
        [0.025, *[0.05] * 3, *[0.005] * 2, *[0.0005] * 2]
    )
    low = finished(monkeypatch, epochs=2, schedule="cosine", final_lr=0.01)
    last = 0.01 + 0.04 * 0.5 * (1 + math.cos(math.pi * 15 / 16))
    assert low.curves[-1]["lr"] == pytest.approx(last)


def test_of_terms_that_are_no_numbers_the_first_step_and_a_part_of_the_loss_are_named():
    values = torch.ones(5, 3)
    values[2:, 0] = values[3:, 1] = values[2:, 2] = float("nan")
    with pytest.raises(InputError, match="toy: variance became nan at step 13, in epoch 2; lower the"):
        check_steps("toy", 1, ["loss", "spread", "variance"], values, 10)
    check_steps("toy", 1, ["loss", "spread", "variance"], torch.ones(5, 3), 10)
    values = torch.tensor([[1.0], [0.001], [0.001], [0.0], [0.0]])
    with pytest.raises(InputError, match="collapse, the spread .* fell to 0 at step 4, in epoch 1"):
        check_steps("toy", 0, ["spread"], values[3:], 3)
    check_steps("toy", 0, ["spread"], values, 0)
    values = torch.tensor([[1.0, 1.3], [1.0, 1.05], [1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(InputError, match="the number of prototypes in use fell to 1 at step 2, in epoch 1"):
        check_steps("toy", 0, ["spread", "prototypes"], values, 0)
    check_steps("toy", 0, ["spread", "prototypes"], 1 + values, 0)


class Constant(TwoViews):
    """An objective that collapses: every projection is drawn to the same point."""

    def loss(self, z1, z2, labels):
        return (z1 - 1).square().mean() + (z2 - 1).square().mean(), {}


@pytest.mark.parametrize("knn_every", [0, 1])
def test_features_that_are_no_numbers_in_evaluation_mode_end_the_run(monkeypatch, knn_every):
    """The weights of the last step, whose loss nobody sees."""
    monkeypatch.setattr(Linear, "forward", lambda self, x: self.layer(x.flatten(1)) / float(self.training))
    with pytest.raises(InputError, match="toy: the features of 256 of 256 images are NaN or infinite"):
        finished(monkeypatch, knn_every=knn_every)


def test_a_collapse_stops_and_names_the_epoch(monkeypatch):
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    digits = load_digits()
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        objective = Constant(backbone, SimpleNamespace(projector=(8, 8)), classes=10)
        for module in objective.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.constant_(module.weight, 0.1)
    data = ResidentSet(digits.images[:256, None].astype(np.uint8), digits.target[:256], "cpu")
    training = strict(PretrainSettings, {**SETTINGS, "epochs": 50, "momentum": 0.9}, "pretrain")
    run = Pretraining(
        "pretrain constant-0", backbone, objective, training, (AugmentSettings(),) * 2, data, data,
        mean=[0.3], std=[0.4], seed=0, machine=machine(),
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"pretrain constant-0: collapse, the spread .* at step \d+, in epoch \d+"
    ):
        run.run(None)
