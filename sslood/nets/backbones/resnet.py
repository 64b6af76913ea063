"""ResNet for small images, 6n+2 layers.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2.
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
class ResNetSettings(Settings):
    """Sizes; ResNet-20 of the paper is depth 20, width 16."""

    depth: Annotated[int, at_least(8), "weighted layers, 6n + 2"]
    width: Annotated[int, at_least(1), "channels of the first stage; the others have 2 and 4 times as many"]

    def _check(self) -> None:
        if (self.depth - 2) % 6:
            raise InputError(f"depth must be 6n + 2 (8, 14, 20, …), found {self.depth}")


class ResNet(Backbone):
    """3x3 stem, three stages of (depth - 2) / 6 blocks with 1, 2 and 4 times `width` channels, mean."""

    Settings = ResNetSettings

    def __init__(self, settings: ResNetSettings, channels: int):
        super().__init__()
        blocks, width = (settings.depth - 2) // 6, settings.width
        self.feature_dim = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, 1)
        self.layer2 = _stage(blocks, width, 2 * width, 2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] -> features [N, 4 width]."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut: relu(x' + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        self.channels, self.stride = channels, stride
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + shortcut_a(x, self.channels, self.stride))


def shortcut_a(x: torch.Tensor, channels: int, stride: int) -> torch.Tensor:
    """Parameter-free shortcut, option A: every `stride`-th pixel, and zeros for the new channels.

    The old channels lie in the middle (half of the zeros before, half after), as in the widely used
    published weights of this family; for a network trained here their order makes no difference.
    [N, C, H, W] -> [N, channels, H/stride, W/stride].
    """
    if stride == 1 and x.shape[1] == channels:
        return x
    new = channels - x.shape[1]
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, new // 2, new - new // 2))


def _stage(blocks: int, inputs: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
