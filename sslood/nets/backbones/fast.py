"""A small network that learns CIFAR-10 in a few epochs: a whitened stem, three blocks of two convolutions.

The ideas are those of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, sections
3.1 to 3.3: the first layer whitens patches of 2 x 2 pixels and is not trained, convolutions start as the
identity, pooling comes before the normalisation, and there are few layers. A sixth or less of the
multiplications of a ResNet-18 (556 million for 32 x 32 pixels): width 64 has 90 million, width 16 8 million.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslood.core.settings import Settings, at_least
from sslood.nets.networks.backbone import Backbone

SIDE = 2  # of the stem's patches, in pixels
RIDGE = 5e-4  # added to the variances that the stem divides by, for images of unit variance


@dataclass(frozen=True)
class FastSettings(Settings):
    """Its only size."""

    width: Annotated[int, at_least(1), "channels of the first block; the others have 3 and 4 times as many"]


class Fast(Backbone):
    """Whitened patches of 2 x 2 pixels, three blocks with 1, 3 and 4 times `width` channels, maximum.

    Each block halves the map once: 32 pixels become 31, 15, 7 and 3. The stem is a buffer, not a parameter:
    `prepare` computes it from training images, and it is saved with the weights.
    """

    Settings = FastSettings

    def __init__(self, settings: FastSettings, channels: int):
        super().__init__()
        width = settings.width
        self.stem = WhitenedPatches(channels)
        self.block1 = Block(self.stem.outputs, width)
        self.block2 = Block(width, 3 * width)
        self.block3 = Block(3 * width, 4 * width)
        self.patches = nn.Identity()
        self.feature_dim = 4 * width

    def initialise(self) -> None:
        super().initialise()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                identity_(module.weight)

    def prepare(self, images: Iterator[Tensor]) -> None:
        """Take the stem's filters from the first 5,000 or so normalised training images [B, C, H, W]."""
        self.stem.fit(islice(images, 50))

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> features [N, 4 width]."""
        return self.patches(self.block3(self.block2(self.block1(self.stem(x))))).amax((2, 3))


class WhitenedPatches(nn.Module):
    """Patches of 2 x 2 pixels on their principal axes at unit variance, and the negatives; a bias; GELU.

    Until `fit` the axes are the pixels. [N, C, H, W] -> [N, 8 C, H - 1, W - 1].
    """

    weight: Tensor

    def __init__(self, channels: int):
        super().__init__()
        values = channels * SIDE**2
        self.outputs = 2 * values
        self.register_buffer("weight", _both_signs(torch.eye(values)).view(-1, channels, SIDE, SIDE))
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    def fit(self, images: Iterable[Tensor]) -> None:
        """Take the axes of batches of normalised images [B, C, H, W]."""
        axes = whitening(images).view(-1, *self.weight.shape[1:])
        self.weight.copy_(_both_signs(axes))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.conv2d(x, self.weight, self.bias))


class Block(nn.Module):
    """Convolution, maximum of 2 x 2, batch norm, GELU; convolution, batch norm, GELU."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if min(x.shape[2:]) > 1:  # of images below 9 pixels nothing would be left
            x = F.max_pool2d(x, 2)
        x = F.gelu(self.bn1(x))
        return F.gelu(self.bn2(self.conv2(x)))


@torch.no_grad()
def whitening(images: Iterable[Tensor]) -> Tensor:
    """Return the filters [4 C, 4 C] that whiten the 2 x 2 patches of batches of images [B, C, H, W].

    Row i is the eigenvector v_i of the patches' covariance over sqrt(lambda_i + RIDGE), from the largest
    eigenvalue to the smallest, its largest entry positive; a patch is read channel by channel, row by row.
    In float64 on the CPU.
    """
    count, total, gram = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in images:
        patches = F.unfold(part.cpu().double(), SIDE).transpose(1, 2).flatten(0, 1)
        count += len(patches)
        total, gram = total + patches.sum(0), gram + patches.T @ patches
    mean = total / count
    variances, axes = torch.linalg.eigh(gram / count - torch.outer(mean, mean))
    axes = axes.T.flip(0)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    scale = variances.flip(0).clamp(min=0).add(RIDGE).sqrt()
    return axes * largest.sign() / scale[:, None]


@torch.no_grad()
def identity_(weight: Tensor) -> None:
    """Make the first filters of [outputs, inputs, k, k] hand on one input channel each, as many as there are.

    The others keep their random values.
    """
    count, middle = min(weight.shape[:2]), (weight.shape[2] // 2, weight.shape[3] // 2)
    weight[:count] = 0
    weight[range(count), range(count), *middle] = 1


def _both_signs(filters: Tensor) -> Tensor:
    return torch.cat((filters, -filters))
