"""The supervised trainings on a pretended CUDA device: orders alone travel, values are read at the end."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from sslood.core.machine import Machine
from sslood.core.settings import strict
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods import classify, leaveout, outliers
from sslood.nets.methods.together import Stack
from sslood.nets.methods.variants import MethodSettings, Variant
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.engine import Engine, place
from tests.kit.pretended import CUDA, pretended_cuda
from tests.nets.methods import test_classify, test_energy, test_leaveout

HERE = Machine(CUDA, compile=False, scratch=Path("scratch"))
IMAGES, BATCH = 64, 16
BF16 = {"batch_size": BATCH, "precision": "bf16"}


def resident(labels=8):
    images = torch.zeros(IMAGES, 3, 8, 8, dtype=torch.uint8)
    return ResidentSet(images, torch.arange(IMAGES) % labels, CUDA)


def of_classify(model, data, how):
    settings = strict(classify.ClassifySettings, {**test_classify.SECTION, **BF16}, "train")
    return classify.Classify(model, data, data, settings=settings, **how)


def of_energy(model, data, how):
    section = {**test_energy.SECTION, **BF16, "loss": "energy", "auxiliary_batch_size": 2 * BATCH}
    settings = strict(outliers.OutlierSettings, section, "energy")
    how |= {"settings": settings, "mode": "full", "fresh_head": True}
    return outliers.Outliers(model, data, data, data, data.images, **how)


def of_leaveout(model, data, how):
    settings = strict(leaveout.LeaveoutSettings, {**test_leaveout.SECTION, **BF16}, "leaveout")
    return leaveout.Leaveout(model, data, data, settings=settings, kept=range(8), **how)


@pytest.mark.parametrize("of", [of_classify, of_energy, of_leaveout])
def test_an_epoch_reads_its_values_once_and_copies_orders_alone(of, monkeypatch):
    # the classes are parted by their labels, and the margins measured, once before the first step
    monkeypatch.setattr(leaveout, "split_classes", lambda data, kept: (data, data))
    margins = {"m_in": -5.0, "m_out": -1.0}
    monkeypatch.setattr(outliers.Outliers, "_choose_margins", lambda self, *_: margins)
    logits = []
    with pretended_cuda() as copies:
        model = Model(build_backbone("resnet-8-4", channels=3), build_head(16, 8))
        recipe, known = AugmentSettings(pad=1, flip=0.5), {"mean": [0.5] * 3, "std": [0.2] * 3}
        how = {"recipe": recipe, "preprocessing": known, "label": "toy", "seed": 0, "machine": HERE}
        engine = Engine(of(model, resident(), how))
        hook = model.register_forward_hook(lambda model, inputs, output: logits.append(output))
        copies.watching = True
        with pytest.raises(DataDependentOutputException):
            engine.train(None)
        hook.remove()
    assert [(x.dtype, x.device) for x in logits] == [(torch.bfloat16, CUDA)] * (IMAGES // BATCH)
    # the orders of the images, and the values of all steps
    assert {found for found in copies.found if found.startswith("int64")} == {f"int64 [{IMAGES}]"}
    assert len([found for found in copies.found if not found.startswith("int64")]) == 1


ROTATED = MethodSettings("t2fnorm", 0.1, rotation=1.0)
MIXED = MethodSettings("logitnorm", 0.04, regmixup=10)
BOTH = MethodSettings(regmixup=10, rotation=1.0)


@pytest.mark.parametrize("method", [ROTATED, MIXED, BOTH])
def test_a_step_of_a_method_neither_waits_for_the_card_nor_leaves_it(method):
    recipe = AugmentSettings(pad=1, flip=0.5, randaugment=1, pixmix=2, jpeg=0.5, cutout=4)
    with pretended_cuda() as copies:
        model, data = Model(build_backbone("resnet-8-4", channels=3), build_head(16, 8)), resident()
        how = {"recipe": recipe, "preprocessing": {"mean": [0.5] * 3, "std": [0.2] * 3}, "seed": 0}
        how |= {"label": "toy", "machine": HERE, "pictures": data.images}
        settings = strict(classify.ClassifySettings, {**test_classify.SECTION, **BF16}, "train")
        task = Variant(model, data, data, method=method, settings=settings, **how)
        engine = Engine(task)
        task.begin_epoch(0)
        batches = task.batches(iter(list(engine.indices(0))))  # the order travels once per epoch
        copies.watching = True
        terms = [engine.step(step, batches) for step in range(2)]
    assert {term.device for step in terms for term in step.values()} == {CUDA}
    assert copies.found == []


@pytest.mark.parametrize("arch", ["resnet-8-4", "densenet-10-4", "wideresnet-10-1", "fast-4"])
def test_stacked_members_run_in_float32_on_a_card(arch):
    """cuDNN's batch norm asks for the layout of its input, which vmap can tell of the usual one alone."""
    with pretended_cuda():
        backbones = [build_backbone(arch, channels=3) for _ in range(2)]
        models = [place(Model(one, build_head(one.feature_dim, 8)), CUDA, "float32") for one in backbones]
        stack = Stack.__new__(Stack)  # without the copy on the meta device, which a fake module cannot have
        stack._template = build_backbone(arch, channels=3).train()
        image = torch.zeros(4, 3, 16, 16, device=CUDA).contiguous(memory_format=torch.channels_last)
        found = stack([model.train() for model in models], [image, image])
    assert [(logits.shape, logits.device) for logits in found] == [((4, 8), CUDA)] * 2


def test_tensor_cores_get_channels_last():
    maps = []
    with pretended_cuda():
        model = place(Model(build_backbone("resnet-8-4", channels=3), build_head(16, 8)), CUDA, "bf16")
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda layer, inputs, output: maps.append(output))
        model(torch.zeros(4, 3, 8, 8, device=CUDA))  # in float32: torch asks the card how bf16 is laid out
    assert len(maps) == 7 and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
