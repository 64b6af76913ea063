"""DenseNet-BC, compression 0.5, 6n+4 layers.

Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", arXiv:1608.06993.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from sslood.core.errors import InputError
from sslood.core.settings import Settings, at_least
from sslood.nets.networks.backbone import Backbone


@dataclass(frozen=True)
class DenseNetSettings(Settings):
    """Sizes; the paper's DenseNet-BC for CIFAR is depth 100, growth 12."""

    depth: Annotated[int, at_least(10), "weighted layers, 6n + 4"]
    growth: Annotated[int, at_least(1), "channels that each layer adds"]

    def _check(self) -> None:
        if (self.depth - 4) % 6:
            raise InputError(f"depth must be 6n + 4 (10, 16, 22, …), found {self.depth}")


class DenseNet(Backbone):
    """3x3 stem of 2 growth, three dense blocks of (depth - 4) / 6 layers, a transition between blocks."""

    Settings = DenseNetSettings

    def __init__(self, settings: DenseNetSettings, channels: int):
        super().__init__()
        layers, growth = (settings.depth - 4) // 6, settings.growth
        width = 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for block in range(3):
            if block:
                stages.append(Transition(width))
                width //= 2
            stages.append(nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(layers))))
            width += layers * growth
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(width)
        self.feature_dim = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] -> features [N, feature_dim]."""
        return F.relu(self.bn(self.stages(self.conv1(x)))).mean((2, 3))


class DenseLayer(nn.Module):
    """bn-relu-conv1x1 to 4 growth channels, bn-relu-conv3x3 to `growth`, beside the input."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat((x, self.conv2(F.relu(self.bn2(out)))), 1)


class Transition(nn.Module):
    """bn-relu-conv1x1 to half the channels, then 2x2 mean pooling."""

    def __init__(self, inputs: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)
