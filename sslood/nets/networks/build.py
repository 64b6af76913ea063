"""From an architecture's name to a network, initialised from a seed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.core.seeding import stream_seed
from sslood.nets.backbones.densenet import DenseNet
from sslood.nets.backbones.resnet import ResNet
from sslood.nets.backbones.wideresnet import WideResNet
from sslood.nets.networks.initialise import he_normal_

FORMS = (
    "resnet-<6n+2>-<width> (resnet-20-16 is He et al.'s ResNet-20)",
    "resnet18, resnet34, resnet50, resnet101 (torchvision's, 3x3 stem for small images)",
    "resnet18-imagenet and so on (7x7 stem)",
    "wideresnet-<6n+4>-<widen>[-<dropout in %>] (wideresnet-28-10, wideresnet-28-10-30)",
    "densenet-<6n+4>-<growth> (densenet-100-12, BC form)",
)
_FAMILIES = {"resnet": (ResNet, 2), "wideresnet": (WideResNet, 4), "densenet": (DenseNet, 4)}


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Draw initial weights from the stream ("init", *names) of run `seed`, not from the global generator.

    Networks are built on the CPU, so the weights are the same on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "init", *names))
        yield


def build_backbone(arch: str, *, channels: int) -> nn.Module:
    """Return the network `arch` without classifier: [N, channels, H, W] -> features [N, .feature_dim].

    Convolutions start from He et al.'s (2015) normal initialisation, fan-out, drawn from torch's default
    generator (see `seeded`). Raises InputError for an unknown name, listing the forms.
    """
    if channels not in (1, 3):
        raise InputError(f"images of {channels} channels; use 1 (grey) or 3 (colour)")
    if match := re.fullmatch(r"resnet(18|34|50|101)(-imagenet)?", arch):
        # torchvision costs 1.5 s to import, and only this branch needs it
        from sslood.nets.backbones.torchvision_resnet import torchvision_resnet

        network = torchvision_resnet(int(match[1]), channels=channels, imagenet_stem=match[2] is not None)
    else:
        network = _small(arch, channels)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            he_normal_(module.weight, "fan_out")
    return network


def _small(arch: str, channels: int) -> nn.Module:
    match = re.fullmatch(r"(resnet|wideresnet|densenet)-([1-9]\d{0,3})-([1-9]\d{0,3})(?:-(\d\d))?", arch)
    if match and (match[4] is None or match[1] == "wideresnet"):
        family, offset = _FAMILIES[match[1]]
        depth = int(match[2])
        dropout = {"dropout": int(match[4]) / 100} if match[4] else {}
        if depth > offset and (depth - offset) % 6 == 0:
            return family(depth, int(match[3]), channels, **dropout)
    raise InputError(f"unknown architecture {arch!r}; the forms are: {'; '.join(FORMS)}")
