"""Wide ResNet, pre-activation, 6n+4 layers.

Zagoruyko and Komodakis, "Wide Residual Networks", arXiv:1605.07146.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from sslood.core.errors import InputError
from sslood.core.settings import Settings, at_least, between
from sslood.nets.networks.backbone import Backbone


@dataclass(frozen=True)
class WideResNetSettings(Settings):
    """Sizes; WRN-28-10 of the paper is depth 28, width 10."""

    depth: Annotated[int, at_least(10), "weighted layers, 6n + 4"]
    width: Annotated[int, at_least(1), "factor on the 16, 32 and 64 channels of the three stages"]
    dropout: Annotated[
        int, between(0, 99), "percent of a block's activations set to zero in training (section 2.4)"
    ] = 0

    def _check(self) -> None:
        if (self.depth - 4) % 6:
            raise InputError(f"depth must be 6n + 4 (10, 16, 22, …), found {self.depth}")


class WideResNet(Backbone):
    """3x3 stem of 16, three stages of (depth - 4) / 6 blocks with 16, 32, 64 times `width` channels, mean."""

    Settings = WideResNetSettings

    def __init__(self, settings: WideResNetSettings, channels: int):
        super().__init__()
        blocks, width, dropout = (settings.depth - 4) // 6, settings.width, settings.dropout / 100
        self.feature_dim = 64 * width
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(blocks, 16, 16 * width, 1, dropout)
        self.layer2 = _stage(blocks, 16 * width, 32 * width, 2, dropout)
        self.layer3 = _stage(blocks, 32 * width, 64 * width, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] -> features [N, 64 width]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.relu(self.bn(x)).mean((2, 3))


class WideBlock(nn.Module):
    """bn-relu-conv twice, dropout between; where the shape changes, a 1x1 convolution is the shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else None
        changes = stride != 1 or inputs != channels
        self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        if self.dropout is not None:
            out = self.dropout(out)
        out = self.conv2(out)
        return out + (x if self.shortcut is None else self.shortcut(active))


def _stage(blocks: int, inputs: int, channels: int, stride: int, dropout: float) -> nn.Sequential:
    first = WideBlock(inputs, channels, stride, dropout)
    return nn.Sequential(first, *(WideBlock(channels, channels, 1, dropout) for _ in range(blocks - 1)))
