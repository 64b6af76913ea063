"""The supervised trainings on a pretended CUDA device: orders alone travel, values are read at the end."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from sslood.core.machine import Machine
from sslood.core.settings import strict
from sslood.data.images.augment import Recipe
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods import classify, energy, leaveout
from sslood.nets.methods.supervised import make_views, prepared
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.files import Model
from sslood.nets.networks.heads import build_head
from tests.kit.pretended import CUDA, pretended_cuda
from tests.nets.methods import test_classify, test_energy, test_leaveout

HERE = Machine(CUDA, bf16=True, compile=False, scratch=Path("scratch"))
IMAGES, BATCH = 64, 16


def resident(labels=8):
    images = torch.zeros(IMAGES, 3, 8, 8, dtype=torch.uint8)
    return ResidentSet(images, torch.arange(IMAGES) % labels, CUDA)


def run_classify(model, data, how):
    options = strict(classify.ClassifyOptions, {**test_classify.SECTION, "batch_size": BATCH}, "train")
    classify.train_classifier(model, data, data, options=options, **how)


def run_energy(model, data, how):
    section = {**test_energy.SECTION, "batch_size": BATCH, "auxiliary_batch_size": 2 * BATCH}
    options = strict(energy.EnergyOptions, section, "energy")
    energy.train_energy(model, data, data, data, options=options, mode="full", m_in=-5.0, m_out=-1.0, **how)


def run_leaveout(model, data, how):
    options = strict(leaveout.LeaveoutOptions, {**test_leaveout.SECTION, "batch_size": BATCH}, "leaveout")
    leaveout.train_leaveout(model, data, data, kept=range(8), options=options, **how)


@pytest.mark.parametrize("run", [run_classify, run_energy, run_leaveout])
def test_an_epoch_reads_its_values_once_and_copies_orders_alone(run, monkeypatch):
    # the classes are parted by their labels, once before the first step
    monkeypatch.setattr(leaveout, "split_classes", lambda data, kept: (data, data))
    steps = []
    with pretended_cuda() as copies:
        model = Model(build_backbone("resnet-8-4", channels=3), build_head(16, 8)).to(CUDA)
        recipe, known = Recipe(pad=1, flip=0.5), {"mean": [0.5] * 3, "std": [0.2] * 3}
        views, data = make_views(recipe, known, seed=0, device=CUDA), resident()
        shown = model.register_forward_hook(lambda model, inputs, logits: steps.append(logits))
        copies.watching = True
        with pytest.raises(DataDependentOutputException):
            run(model, data, {"views": views, "seed": 0, "machine": HERE, "checkpoint": None})
        shown.remove()
    assert [(logits.dtype, logits.device) for logits in steps] == [(torch.bfloat16, CUDA)] * (IMAGES // BATCH)
    assert set(copies.found) == {f"int64 [{IMAGES}]"}


def test_tensor_cores_get_channels_last():
    maps = []
    with pretended_cuda():
        model = Model(build_backbone("resnet-8-4", channels=3), build_head(16, 8)).to(CUDA)
        _, network = prepared(model, HERE, "train")
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda layer, inputs, output: maps.append(output))
        network(torch.zeros(4, 3, 8, 8, device=CUDA))  # in float32: torch asks the card how bf16 is laid out
    assert len(maps) == 7 and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
