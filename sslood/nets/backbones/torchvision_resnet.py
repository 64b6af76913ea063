"""torchvision's ResNets as backbones, with its state-dict keys; the CIFAR stem is the usual 3x3 one.

A module of its own because importing torchvision takes longer than many a quickstart stage needs to run.
"""

from torch import nn
from torchvision.models import resnet18, resnet34, resnet50, resnet101

_MAKERS = {18: resnet18, 34: resnet34, 50: resnet50, 101: resnet101}


def torchvision_resnet(depth: int, *, channels: int, imagenet_stem: bool) -> nn.Module:
    """Return torchvision's ResNet of `depth` (18, 34, 50, 101) that ends in pooled features [N, feature_dim].

    Without `imagenet_stem` the 7x7 stride-2 convolution becomes 3x3, stride 1, padding 1 and the
    max-pooling goes, as all CIFAR recipes do (Chen et al. 2020, appendix B.9).
    """
    network = _MAKERS[depth]()
    network.feature_dim = network.fc.in_features
    network.fc = nn.Identity()
    if not imagenet_stem:
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return network
