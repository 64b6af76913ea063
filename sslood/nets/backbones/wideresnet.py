"""Wide ResNet: Zagoruyko and Komodakis 2016 (pre-activation, 6n+4 layers)."""

import torch
import torch.nn.functional as F
from torch import nn


class WideBlock(nn.Module):
    """bn-relu-conv twice, dropout between; where the shape changes, a 1x1 convolution is the shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.dropout = dropout
        changes = stride != 1 or inputs != channels
        self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        if self.dropout:
            out = F.dropout(out, self.dropout, self.training)
        out = self.conv2(out)
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """3x3 stem of 16, three stages of (depth - 4) / 6 blocks with 16, 32, 64 times `widen` channels.

    `dropout` is the share of activations that each block sets to zero in training (section 2.4).
    """

    def __init__(self, depth: int, widen: int, channels: int, dropout: float = 0.0):
        super().__init__()
        blocks = (depth - 4) // 6
        self.feature_dim = 64 * widen
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(blocks, 16, 16 * widen, 1, dropout)
        self.layer2 = _stage(blocks, 16 * widen, 32 * widen, 2, dropout)
        self.layer3 = _stage(blocks, 32 * widen, 64 * widen, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * widen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] -> features [N, 64 widen]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.relu(self.bn(x)).mean((2, 3))


def _stage(blocks: int, inputs: int, channels: int, stride: int, dropout: float) -> nn.Sequential:
    first = WideBlock(inputs, channels, stride, dropout)
    return nn.Sequential(first, *(WideBlock(channels, channels, 1, dropout) for _ in range(blocks - 1)))
