"""The stages and the dropout of real architectures."""

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import resnet

from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.views.opened import open_model
from sslood.views.resolutions import dropout_layers, dropping, stage_modules

STAGES = {
    "resnet-8-4": ["layer1", "layer2", "layer3"],
    "wideresnet-10-1": ["layer1", "layer2", "layer3"],
    "densenet-16-4": ["stages.0", "stages.2", "stages"],
    "resnet18-imagenet": ["conv1", "layer1", "layer2", "layer3", "layer4"],
}


def model_of(arch):
    with seeded(0):
        model = Model(build_backbone(arch, channels=3))
        model.head = build_head(model.backbone.feature_dim, 4)
    return model.eval()


def images(count, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", STAGES)
def test_a_stage_ends_with_the_last_map_of_its_resolution(arch):
    backbone = build_backbone(arch, channels=3).eval()
    found = stage_modules(backbone, images(1, 64 if "imagenet" in arch else 32))
    names = {module: name for name, module in backbone.named_modules()}
    assert [names[module] for module in found] == STAGES[arch]
    assert not any(module._forward_hooks for module in backbone.modules())


@pytest.mark.parametrize(
    ("arch", "ends"),
    [
        ("efficientnet_b0", ["features.1", "features.2", "features.3", "features.5", "features"]),
        ("mobilenet_v3_small", ["features.0", "features.1", "features.3", "features.8", "features"]),
        ("regnet_y_400mf", ["stem", *(f"trunk_output.block{n}" for n in (1, 2, 3)), "trunk_output"]),
        ("regnet_x_400mf", ["stem", *(f"trunk_output.block{n}" for n in (1, 2, 3)), "trunk_output"]),
        ("mobilenet_v2", ["features.1", "features.3", "features.6", "features.13", "features"]),
    ],
)
def test_the_branch_of_squeeze_and_excitation_halves_no_map(arch, ends):
    """The last block before each stride of 2 in the tables of the papers, whether blocks have the branch."""
    network = getattr(models, arch)(weights=None).eval()
    names = {module: name for name, module in network.named_modules()}
    assert [names[module] for module in stage_modules(network, images(1, 64))] == ends


class Halves(nn.Module):
    """An encoder of three resolutions, the last of a single pixel."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, 3, 2, stride=2) for _ in range(3))

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


def test_a_last_map_of_one_pixel_is_a_resolution():
    network = nn.Sequential(Halves(), nn.Flatten()).eval()
    names = {module: name for name, module in network.named_modules()}
    found = [names[module] for module in stage_modules(network, images(1, 8))]
    assert found == ["0.parts.0", "0.parts.1", "0"]


class Wrapped(nn.Module):
    """A user's network: an encoder of bottlenecks that ends in a map, pooled outside of it."""

    def __init__(self):
        super().__init__()
        parts = list(resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1]).children())[:-2]
        self.encoder = Encoder(parts)

    def forward(self, x):
        return self.encoder(x).mean((2, 3))


class Encoder(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


def test_bottlenecks_in_a_users_encoder_end_no_stage():
    """Their first convolution of a stage still has the map of the stage before."""
    network = Wrapped().eval()
    names = {module: name for name, module in network.named_modules()}
    found = [names[module] for module in stage_modules(network, images(1, 32))]
    assert found[:-1] == [f"encoder.parts.{place}" for place in (0, 4, 5, 6)] and found[-1] == "encoder"


def test_maps_are_read_replaced_and_differentiable():
    model = model_of("resnet-8-4")
    network = open_model(model, mean=[0.5] * 3, std=[0.5] * 3, device="cpu")
    x = images(3).requires_grad_(True)
    maps, z = network.stages(x, {})
    torch.testing.assert_close(maps[-1].mean((2, 3)), z)
    torch.testing.assert_close(network.head(z), model(x))
    gradients = torch.autograd.grad(z.sum(), maps, retain_graph=True)
    assert all(found.any() for found in gradients)
    assert torch.autograd.grad(z.sum(), x)[0].any()
    replaced, other = network.stages(x, {-1: torch.zeros_like})
    assert not replaced[-1].any() and not other.any()
    torch.testing.assert_close(replaced[0], maps[0])
    twice, other = network.stages(x, {-2: lambda found: 2 * found})
    torch.testing.assert_close(other, model.backbone.layer3(2 * maps[1]).mean((2, 3)))
    smaller, _ = network.stages(images(2, 16), {})
    assert [found.shape[-1] for found in smaller] == [16, 8, 4]
    assert not any(module._forward_hooks for module in model.modules())


def test_what_has_no_convolution_has_no_stages():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    network = open_model(Model(backbone, build_head(5, 2)), mean=[0.5], std=[0.5], device="cpu")
    assert network.stages is None and network.head is not None
    backbone = build_backbone("resnet-8-4", channels=3)
    encoder = open_model(Model(backbone), mean=[0] * 3, std=[1] * 3, device="cpu")
    assert encoder.stages is not None and encoder.head is None and encoder.dropped is None


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d])
def test_layers_drop_channels_where_torch_does(kind):
    x = torch.ones(4, 50, *(6,) * {nn.Dropout1d: 1, nn.Dropout3d: 3}.get(kind, 2))
    layer = kind(0.5).eval()
    with dropping(dropout_layers(layer), 0):
        found = layer(x)
    theirs = kind(0.5).train()(x)
    whole = [bool((one.flatten(2).amin(2) == one.flatten(2).amax(2)).all()) for one in (found, theirs)]
    assert whole[0] == whole[1] == (kind is not nn.Dropout)
    assert sorted(found.unique().tolist()) == [0.0, 2.0] and torch.equal(found[0], found[3])


def test_alpha_dropout_is_no_dropout_of_values():
    assert not dropout_layers(nn.Sequential(nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.Dropout(0)))


def test_a_draw_drops_the_same_of_every_image():
    model = model_of("wideresnet-10-1-50")
    network = open_model(model, mean=[0.5] * 3, std=[0.5] * 3, device="cpu")
    x = images(4)
    one, again, other = (network.dropped(x, draw) for draw in (0, 0, 1))
    assert torch.equal(one, again) and not torch.allclose(one, other)
    torch.testing.assert_close(network.dropped(x[2:3], 0), one[2:3])
    plain = model(x)
    assert not torch.allclose(one, plain) and not model.training
    assert not any(module._forward_hooks for module in model.modules())
    seen = []
    block = model.backbone.layer1[0]
    hook = block.conv2.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        network.dropped(x, 3)
    hook.remove()
    dropped = (seen[0] == 0).float().mean().item()
    with torch.no_grad():
        unmoved = block.conv1(torch.relu(block.bn1(model.backbone.conv1(x))))
        unmoved = torch.relu(block.bn2(unmoved))
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], (unmoved / 0.5)[kept])
    assert dropped == pytest.approx(0.5 + 0.5 * (unmoved == 0).float().mean().item(), abs=0.02)
