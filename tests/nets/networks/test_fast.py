"""The network `fast`: its whitened stem against NumPy, its start, its size, and that it learns."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.backbones.fast import RIDGE, WhitenedPatches, whitening
from sslood.nets.methods.leaveout import LeaveoutSettings, PlainMember
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.objectives.scratch import Scratch
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.selfsup.settings import PretrainSettings
from stages.train import main
from tests.kit.small import call, digit_images, model_card, write_params, write_sets
from tests.kit.training import PRETRAIN, SHARED
from tests.nets.selfsup.test_objectives import objective_class, objective_settings


def correlated(count=40, channels=3, side=9):
    """Images whose neighbouring pixels and channels resemble each other, mean not 0."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, channels, side, side))
    images = images + 2 * images.mean((1, 2), keepdims=True) + np.roll(images, 1, 3) + 0.3
    return torch.from_numpy(images)


def patches(images):
    """Patches [M, 4 C] of 2 x 2 pixels, one after the other."""
    windows = np.lib.stride_tricks.sliding_window_view(images.numpy(), (2, 2), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 4 * images.shape[1])


def test_the_stem_whitens_as_numpys_eigenvectors_do():
    images = correlated()
    flat = patches(images)
    variances, axes = np.linalg.eigh(np.cov(flat, rowvar=False, bias=True))
    expected = (axes / np.sqrt(variances + RIDGE)).T[::-1]
    found = whitening(images.split(7)).numpy()
    assert np.abs((expected * found).sum(1)) == pytest.approx((expected**2).sum(1), rel=1e-9)
    assert (found[range(12), np.abs(found).argmax(1)] > 0).all()
    stem = WhitenedPatches(3).double()
    stem.fit(images.split(7))
    assert np.allclose(stem.weight.flatten(1), np.concatenate((found, -found)))
    outputs = flat @ found.T
    kept = variances[::-1] / (variances[::-1] + RIDGE)
    assert np.allclose(np.cov(outputs, rowvar=False, bias=True), np.diag(kept), atol=1e-9)
    shown = torch.nn.functional.gelu(torch.from_numpy(np.concatenate((outputs, -outputs), 1)))
    assert np.allclose(stem(images).detach().permute(0, 2, 3, 1).flatten(0, 2), shown)


@pytest.mark.parametrize("width", [16, 56])
def test_parameters_and_multiplications_follow_from_the_widths(width):
    with torch.device("meta"):
        network = build_backbone(f"fast-{width}", channels=3).eval()
        x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert network(x).shape == (1, 4 * width)
    layers = [  # inputs, outputs, side of the map
        *((24, width, 31), (width, width, 15)),
        *((width, 3 * width, 15), (3 * width, 3 * width, 7)),
        *((3 * width, 4 * width, 7), (4 * width, 4 * width, 3)),
    ]
    assert sum(p.numel() for p in network.parameters()) == 24 + sum(
        9 * inputs * outputs + 2 * outputs for inputs, outputs, _ in layers
    )
    products = 31**2 * 24 * 12 + sum(9 * inputs * outputs * side**2 for inputs, outputs, side in layers)
    assert counter.get_total_flops() == 2 * products
    assert products <= {16: 8.4e6, 56: 70.5e6}[width]  # at most an eighth of ResNet-18's 556 million


def test_convolutions_start_by_handing_on_their_input():
    with seeded(0):
        network = build_backbone("fast-8", channels=1)
    for layer in (network.block1.conv1, network.block2.conv1, network.block3.conv2):
        x = torch.randn(2, layer.in_channels, 6, 6)
        count = min(layer.in_channels, layer.out_channels)
        assert torch.equal(layer(x)[:, :count], x[:, :count])
    rest = network.block2.conv1.weight[8:]
    assert rest.std().item() == pytest.approx((2 / (9 * 24)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("side", [2, 8, 9, 16])
def test_images_of_any_size_and_in_any_company(side):
    with seeded(0):
        network = build_backbone("fast-4", channels=1).eval()
        images = torch.randn(5, 1, side, side)
    features = network(images)
    assert features.shape == (5, network.feature_dim)
    assert torch.allclose(features[3:4], network(images[3:4]), atol=1e-6)


def test_it_learns_digits_and_its_file_keeps_the_stem(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    sets, start = write_sets(tmp_path), tmp_path / "scratch.safetensors"
    with seeded(0):
        encoder = build_backbone("fast-8", channels=1)
    images = load_tensors(sets["digits"])[0]["train.images"]
    encoder.prepare(iter([(torch.from_numpy(images) / 255 - 0.3) / 0.37]))
    save_model(start, {"backbone": encoder}, model_card(arch="fast-8", feature_dim=32))
    run = {
        **SHARED, "seed": 0, "id_set": sets["digits"], "name": "c", "init_model": start,
        "recipe": f"{write_params(tmp_path / 'params.yaml')}:augment.classifier", "labels": 100,
        "optimiser": "muon", "schedule": "linear", "lr": 0.03, "batch_size": 50, "epochs": 5,
        "label_smoothing": 0.1, "freeze": "none", "alternate": False, "warmup_epochs": 1,
        "out": tmp_path / "out.safetensors", "out_curves": tmp_path / "curves.csv",
    }  # fmt: skip
    assert call(main, **run) == 0
    assert float(run["out_curves"].read_text().splitlines()[-1].split(",")[-1]) > 0.9
    model, card = load_model(run["out"])
    assert card.arch == "fast-8" and torch.equal(model.backbone.stem.weight, encoder.stem.weight)
    assert not torch.equal(model.backbone.stem.bias, torch.zeros(8))


def test_a_member_from_scratch_takes_its_stem_from_its_training_images():
    """So does an encoder; what starts from a model keeps that one's, see above."""
    images, labels = digit_images()
    sets = [ResidentSet(images[:200], labels[:200], "cpu")] * 2
    with seeded(0):
        network = build_backbone("fast-4", channels=1)
        head, encoder = build_head(network.feature_dim, 8), build_backbone("fast-4", channels=1)
    settings = LeaveoutSettings(
        **SHARED, beta=0.2, margin=0.4, margin_of="batch", select="last", folds=(0, 1), seed=0
    )
    mean, std = [0.3], [0.4]
    kept, here = list(range(8)), machine("float32")
    PlainMember(
        Model(network, head), *sets, kept=kept, settings=settings, recipe=AugmentSettings(), label="m",
        preprocessing={"mean": mean, "std": std}, seed=0, machine=here,
    )  # fmt: skip
    Pretraining(
        "scratch", encoder, Scratch(encoder, None, classes=10), PretrainSettings(**PRETRAIN),
        [AugmentSettings()] * 2, *sets, mean=mean, std=std, seed=0, machine=here,
    )  # fmt: skip
    every = torch.from_numpy(images[:200]).double()
    for backbone, seen in ((network, every[labels[:200] < 8]), (encoder, every)):
        expected = whitening([(seen / 255 - 0.3) / 0.4]).float()
        assert torch.allclose(backbone.stem.weight[:4].flatten(1), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["byol", "dino"])
def test_a_teacher_has_the_stem_of_its_student(name):
    """The stem is a buffer, which no moving average reaches."""
    images, labels = digit_images()
    sets = [ResidentSet(images[:200], labels[:200], "cpu")] * 2
    with seeded(0):
        encoder = build_backbone("fast-4", channels=1)
        objective = objective_class(name)(encoder, objective_settings(name), classes=10)
    Pretraining(
        name, encoder, objective, PretrainSettings(**PRETRAIN), [AugmentSettings()] * 2, *sets,
        mean=[0.3], std=[0.4], seed=0, machine=machine("float32"),
    )  # fmt: skip
    teacher = objective.teacher.networks[0]
    assert not torch.equal(encoder.stem.weight, build_backbone("fast-4", channels=1).stem.weight)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[key]), key
