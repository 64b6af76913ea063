"""The ResNets of solo-learn's CIFAR runs: torchvision's, whose 3x3 stem pads by two pixels instead of one.

    architecture: architectures.solo_learn:resnet18

With our resnet18 the same weights load without a complaint and give other features.
"""

from torch import nn
from torchvision import models


def _cifar(network: nn.Module) -> nn.Module:
    network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=2, bias=False)
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    return network


def resnet18() -> nn.Module:
    """Images [N, 3, H, W] -> features [N, 512]."""
    return _cifar(models.resnet18())


def resnet50() -> nn.Module:
    """Images [N, 3, H, W] -> features [N, 2048]."""
    return _cifar(models.resnet50())
