"""Quarter turns of images, which rotation prediction classifies."""

import torch
from torch import Tensor


def rotations(x: Tensor) -> Tensor:
    """Return images [N, C, H, H] turned by 0, 1, 2, 3 quarters (anticlockwise), as [4 N, C, H, H]."""
    turned = torch.cat([x.rot90(quarters, (2, 3)) for quarters in range(4)])
    return turned.contiguous(memory_format=torch.channels_last)
