"""EfficientNet-lite: EfficientNet without squeeze-and-excitation and swish, for processors without them.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946,
table 1 and section 3.3, in the variant of the TPU team: ReLU6, and stem, top, first and last stage that do
not grow. TensorFlow's weights fit: its asymmetric padding ("SAME") and its batch normalisation.
"""

from dataclasses import dataclass
from math import ceil
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from sslood.core.settings import Settings
from sslood.nets.networks.backbone import Backbone

STEM, TOP, EPSILON = 32, 1280, 1e-3
_GROWTH = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}  # width, depth
_STAGES = (  # expansion, channels, blocks, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


@dataclass(frozen=True)
class EfficientNetLiteSettings(Settings):
    """Which of the family; lite0 was published for images of 224 pixels, lite2 for 260."""

    size: Annotated[Literal[0, 1, 2, 3, 4], "0 to 4: how wide and deep"]


class EfficientNetLite(Backbone):
    """3x3 stem, seven stages of inverted bottlenecks, 1x1 convolution to 1280 channels, mean."""

    Settings = EfficientNetLiteSettings
    feature_dim = TOP

    def __init__(self, settings: EfficientNetLiteSettings, channels: int):
        super().__init__()
        width, depth = _GROWTH[settings.size]
        blocks, inputs = [], STEM
        for position, (expansion, outputs, count, stride, kernel) in enumerate(_STAGES):
            outputs = _grown(outputs, width)
            if 0 < position < len(_STAGES) - 1:
                count = ceil(count * depth)
            for block in range(count):
                blocks.append(Bottleneck(inputs, outputs, expansion, stride if block == 0 else 1, kernel))
                inputs = outputs
        self.stem = _layer(channels, STEM, 3, stride=2)
        self.blocks = nn.Sequential(*blocks)
        self.top = _layer(inputs, TOP, 1)
        self.patches = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, C, H, W] -> features [N, 1280], the mean of the last map [N, 1280, H/32, W/32]."""
        return self.patches(self.top(self.blocks(self.stem(x)))).mean((2, 3))


class Bottleneck(nn.Module):
    """1x1 to `expansion` times the channels, depthwise, 1x1 without activation; a shortcut if it fits."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int):
        super().__init__()
        inner = inputs * expansion
        self.expand = _layer(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(inner, inner, kernel, stride=stride, groups=inner)
        self.project = _layer(inner, outputs, 1, active=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.adds else out


class SameConv2d(nn.Conv2d):
    """A strided convolution padded as TensorFlow does: ceil(H / stride) rows, the odd one below and right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, across = (max((ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:])
        return super().forward(F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)))


def _layer(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """Return convolution, batch normalisation and, if `active`, ReLU6."""
    if stride == 1:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, EPSILON, momentum=0.01)
    return nn.Sequential(conv, norm, *([nn.ReLU6(inplace=True)] if active else []))


def _grown(channels: int, width: float) -> int:
    """Return the channels times `width`, rounded to a multiple of 8 that is at least nine tenths of it."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8
