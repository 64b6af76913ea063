"""torchvision's ResNets, under its names of the weights, with its stem or the usual 3x3 one of CIFAR.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn
from torchvision.models import resnet

from sslood.core.settings import Settings
from sslood.nets.networks.backbone import Backbone

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True)
class TorchvisionResNetSettings(Settings):
    """Depth and stem."""

    depth: Annotated[Literal[18, 34, 50, 101], "weighted layers"]
    stem: Annotated[
        Literal["small", "imagenet"],
        "small: 3x3, stride 1, no max-pooling, as in all CIFAR recipes (SimCLR, arXiv:2002.05709, appendix "
        "B.9); imagenet: 7x7, stride 2, max-pooling",
    ] = "small"


class TorchvisionResNet(resnet.ResNet, Backbone):
    """torchvision's ResNet that ends in pooled features [N, feature_dim]."""

    Settings = TorchvisionResNetSettings

    def __init__(self, settings: TorchvisionResNetSettings, channels: int):
        block = resnet.BasicBlock if settings.depth < 50 else resnet.Bottleneck
        super().__init__(block, list(_BLOCKS[settings.depth]))
        self.feature_dim: int = 512 * block.expansion
        self.fc = nn.Identity()
        if settings.stem == "small":
            self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
