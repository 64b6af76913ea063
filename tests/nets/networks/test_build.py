import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from sslood.core.errors import InputError
from sslood.nets import backbones
from sslood.nets.backbones.resnet import shortcut_a
from sslood.nets.networks.build import build_backbone, full_name, parse_name, read_architecture, seeded
from sslood.nets.networks.heads import build_head, build_projector


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("arch", "features", "millions", "digits"),
    [
        ("resnet18", 512, 11.17, 2),
        ("resnet50", 2048, 23.5, 1),
        ("wideresnet-28-10", 640, 36.5, 1),
        ("wideresnet-40-2", 128, 2.24, 2),
        ("densenet-100-12", 342, 0.77, 2),
        ("resnet-20-16", 64, 0.27, 2),
    ],
)
def test_parameters_are_the_published_ones(arch, features, millions, digits):
    with torch.device("meta"):
        backbone = build_backbone(arch, channels=3)
    assert backbone.feature_dim == features
    total = parameters(backbone) + 10 * features + 10  # the papers count the classifier of CIFAR-10
    assert round(total / 1e6, digits) == millions


@pytest.mark.parametrize(
    ("arch", "gigas"), [("resnet18", 0.5554), ("wideresnet-40-2", 0.328), ("densenet-100-12", 0.288)]
)
def test_multiplications_are_the_known_ones(arch, gigas):
    with torch.device("meta"):
        backbone = build_backbone(arch, channels=3).eval()
        x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = backbone(x)
    assert features.shape == (1, backbone.feature_dim)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gigas, rel=2e-3)


def test_resnet18_with_imagenet_stem_is_torchvisions():
    with seeded(0):
        theirs = resnet18()
        for module in theirs.modules():  # running statistics that are not 0 and 1, as after training
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        x = torch.randn(2, 3, 64, 64)
    ours = build_backbone("resnet18-imagenet", channels=3)
    head = torch.nn.Linear(512, 1000)
    weights = theirs.state_dict()
    ours.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")}, strict=True)
    head.load_state_dict({k[3:]: v for k, v in weights.items() if k.startswith("fc.")})
    with torch.inference_mode():
        assert torch.equal(head(ours.eval()(x)), theirs.eval()(x))


def test_resnet18_for_small_images_is_torchvisions_with_another_stem():
    ours = build_backbone("resnet18", channels=3)
    theirs = resnet18()
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with seeded(1):
        x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))
        assert ours.layer1(ours.relu(ours.bn1(ours.conv1(x)))).shape[-1] == 32  # nothing lost in the stem


def test_shortcut_a_takes_every_second_pixel_and_pads_channels_with_zeros():
    x = torch.arange(2 * 2 * 4 * 4.0).view(2, 2, 4, 4)
    y = shortcut_a(x, 4, 2)
    assert y.shape == (2, 4, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert y[:, [0, 3]].abs().sum() == 0
    assert shortcut_a(x, 2, 1) is x


@pytest.mark.parametrize("arch", ["resnet-8-4", "wideresnet-10-1", "densenet-10-6", "resnet18"])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_and_both_kinds_of_channels(arch, channels):
    with seeded(0):
        backbone = build_backbone(arch, channels=channels)
        features = backbone(torch.randn(2, channels, 16, 16))
    assert features.shape == (2, backbone.feature_dim)
    features.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_dropout_is_a_part_of_the_name_and_acts_in_training_alone():
    with seeded(0):
        plain = build_backbone("wideresnet-10-1", channels=1)
    with seeded(0):
        dropped = build_backbone("wideresnet-10-1-30", channels=1)
        images = torch.randn(4, 1, 16, 16)
        inner = torch.ones(1, 16, 200, 200)
        block = dropped.layer1[0]
        block.conv2 = torch.nn.Identity()
        block.shortcut = torch.nn.Conv2d(16, 16, 1, bias=False)
        torch.nn.init.zeros_(block.shortcut.weight)
        block.bn2 = torch.nn.Softplus()  # above zero everywhere, so a zero was dropped
        share = (block(inner) == 0).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.01)
    with seeded(0):
        again = build_backbone("wideresnet-10-1-30", channels=1).eval()
    assert torch.equal(plain.eval()(images), again(images))


def test_initialisation_follows_the_seed_and_leaves_the_global_generator_alone():
    def weights(seed):
        with seeded(seed):
            return torch.cat([p.flatten() for p in build_backbone("resnet-8-4", channels=1).parameters()])

    before = torch.get_rng_state()
    first, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_convolutions_start_from_he_et_als_variance():
    with seeded(0):
        backbone = build_backbone("wideresnet-10-4", channels=3)
    weight = backbone.layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx(np.sqrt(2 / (weight.shape[0] * 9)), rel=0.02)


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        (
            "vit",
            "unknown architecture 'vit'; the forms are: densenet-<depth>-<growth>; efficientnet_lite-<size>",
        ),
        ("", "unknown architecture ''; the forms are: .*wideresnet-<depth>-<width>\\[-<dropout>\\]"),
        ("resnet-8-4-30", "unknown architecture 'resnet-8-4-30'; the form is: resnet-<depth>-<width>"),
        ("resnet-9-16", "depth must be 6n \\+ 2 .*, found 9"),
        ("resnet-2-16", "depth must be at least 8, found 2"),
        ("resnet19", "depth: must be one of 18, 34, 50, 101, found 19"),
        ("resnet18-huge", "stem: must be one of small, imagenet, found 'huge'"),
        ("wideresnet-28", "missing key 'width'"),
        ("wideresnet-28-10-100", "dropout must be at most 99|dropout must be at least 0 and at most 99"),
        ("densenet-100-0", "growth must be at least 1, found 0"),
        ("densenet-100-x", "growth: must be of type int, found 'x'"),
    ],
)
def test_a_wrong_architecture_is_explained(arch, says):
    with pytest.raises(InputError, match=says):
        build_backbone(arch, channels=3)


@pytest.mark.parametrize(
    ("arch", "full"),
    [
        ("resnet-8-16", "resnet-8-16"),
        ("wideresnet-28-10", "wideresnet-28-10"),
        ("wideresnet-28-10-0", "wideresnet-28-10"),
        ("wideresnet-28-10-30", "wideresnet-28-10-30"),
        ("resnet18", "torchvision_resnet-18"),
        ("resnet50-imagenet", "torchvision_resnet-50-imagenet"),
    ],
)
def test_a_name_and_its_settings_give_each_other(arch, full):
    name, settings = parse_name(arch)
    assert full_name(name, settings) == full and parse_name(full) == (name, settings)


def test_sizes_come_from_a_section(tmp_path):
    (tmp_path / "p.yaml").write_text("b: {wideresnet: {depth: 10, width: 2}, wrong: {depth: 11, width: 2}}")
    assert read_architecture("wideresnet", f"{tmp_path}/p.yaml:b.wideresnet") == "wideresnet-10-2"
    with pytest.raises(InputError, match="p.yaml:b.wrong: depth must be 6n"):
        read_architecture("wideresnet", f"{tmp_path}/p.yaml:b.wrong")
    with pytest.raises(
        InputError, match="unknown backbone 'vit'; known: densenet, efficientnet_lite, fast, resnet, torch"
    ):
        read_architecture("vit", f"{tmp_path}/p.yaml:b.wrong")


def test_a_file_is_a_backbone(tmp_path, monkeypatch):
    """Nothing else has to be touched to add one, and loading it imports no other."""
    (tmp_path / "flat.py").write_text(
        "from dataclasses import dataclass\nfrom typing import Annotated\nfrom torch import nn\n"
        "from sslood.core.settings import Settings, at_least\n"
        "from sslood.nets.networks.backbone import Backbone\n"
        "@dataclass(frozen=True)\nclass FlatSettings(Settings):\n"
        "    size: Annotated[int, at_least(1), 'pixels']\n"
        "class Flat(Backbone):\n    Settings = FlatSettings\n"
        "    def __init__(self, settings, channels):\n        super().__init__()\n"
        "        self.feature_dim = channels * settings.size**2\n"
        "    def forward(self, x):\n        return x.flatten(1)\n"
    )
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path)])
    flat = build_backbone("flat-4", channels=3)
    assert flat.feature_dim == 48 and flat(torch.zeros(2, 3, 4, 4)).shape == (2, 48)
    sys.modules.pop("sslood.nets.backbones.flat")


def test_channels_other_than_grey_and_colour_are_refused():
    with pytest.raises(InputError, match="2 channels"):
        build_backbone("resnet-8-4", channels=2)


def test_projector_shapes_and_biases():
    with seeded(0):
        projector = build_projector(8, [16, 16, 4])
        plain = build_projector(8, [16, 4], batch_norm=False)
    assert [type(m).__name__ for m in projector] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [type(m).__name__ for m in plain] == ["Linear", "ReLU", "Linear"]
    assert projector(torch.randn(3, 8)).shape == (3, 4)
    assert projector[0].bias is None and plain[0].bias is not None
    with pytest.raises(InputError, match="widths"):
        build_projector(8, [])


def test_head_starts_with_small_logits():
    with seeded(0):
        head = build_head(512, 10)
    assert head.weight.std().item() == pytest.approx(512**-0.5, rel=0.05)
    assert head.bias.abs().sum() == 0
