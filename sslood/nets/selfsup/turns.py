"""Quarter turns of images, and the loss of a classifier of them (Gidaris et al. 2018, eq. 2 and 3)."""

import torch
from torch import Tensor

from sslood.nets.selfsup.classifier import judged


def rotations(x: Tensor) -> Tensor:
    """Return images [N, C, H, H] turned by 0, 1, 2, 3 quarters (anticlockwise), as [4 N, C, H, H]."""
    turned = torch.cat([x.rot90(quarters, (2, 3)) for quarters in range(4)])
    return turned.contiguous(memory_format=torch.channels_last)


def turn_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean cross-entropy in float32, accuracy) of logits [4 N, 4] of what `rotations` returned."""
    truth = torch.arange(4, device=logits.device).repeat_interleave(len(logits) // 4)
    return judged(logits, truth)
