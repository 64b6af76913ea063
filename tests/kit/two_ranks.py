"""A few steps of every objective on real digits, alone or as one of several processes, in float64.

    python -m torch.distributed.run --nproc_per_node 2 -m tests.kit.two_ranks FILE

tests/nets/training/test_ranks.py runs it both ways.
"""

import sys

import numpy as np
import torch
from sklearn.datasets import load_digits

from sslood.core.machine import machine
from sslood.core.settings import strict
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.selfsup.settings import PretrainSettings
from sslood.nets.training.ranks import rank, session
from tests.kit.registries import objective_class
from tests.kit.training import PRETRAIN, TRAINED, objective_settings

SETTINGS = {
    **PRETRAIN, "lr": 0.02, "weight_decay": 1e-4, "clip": 1.0, "accumulate": 2, "precision": "float64"
}  # fmt: skip
RECIPE = AugmentSettings(crop_scale_min=0.5, jitter=0.8, brightness=0.4, contrast=0.4)


def trained(name, here, **changes):
    """Return the curves, the gradients of the last step, and the networks after two epochs of two steps."""
    digits = load_digits()
    data = ResidentSet(digits.images[:128, None].astype(np.uint8) * 15, digits.target[:128], here.device)
    kind = objective_class(name)
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        objective = kind(backbone, objective_settings(name), classes=10)
    settings = strict(PretrainSettings, {**SETTINGS, **changes}, "pretrain")
    run = Pretraining(
        name, backbone, objective, settings, (RECIPE, RECIPE), data, data,
        mean=[0.3], std=[0.4], seed=0, machine=here,
    )  # fmt: skip
    curves = run.run(None)
    gradients = {key: p.grad for key, p in run.modules.named_parameters() if p.grad is not None}
    return {"curves": curves, "gradients": gradients, "networks": dict(run.modules.state_dict())}


def main():
    with session(machine()) as here:
        found = {name: trained(name, here) for name in TRAINED}
        if rank() == 0:
            torch.save(found, sys.argv[1])


if __name__ == "__main__":
    main()
