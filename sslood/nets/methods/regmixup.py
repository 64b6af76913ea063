"""RegMixup: mixed images beside the images themselves, in one batch.

Pinto et al. 2022, "RegMixup: mixup as a regularizer can surprisingly improve accuracy and out distribution
robustness", arXiv:2206.14502.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits [N, K] and labels [N], their mean


def mixing(n: int, alpha: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (partner [N] of each image, share of the batch from Beta(alpha, alpha)), on the device.

    The middle of 2 alpha - 1 uniform numbers has that law.
    """
    device = generator.device
    uniform = torch.rand(2 * alpha - 1, generator=generator, device=device)
    return torch.randperm(n, generator=generator, device=device), uniform.sort().values[alpha - 1]


def mixed(images: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Return the images [N, C, H, W] and after them share x + (1 - share) x[partner], [2 N, C, H, W]."""
    return torch.cat((images, torch.lerp(images[partner], images, share.to(images.dtype))))


def regmixup(loss: Loss, logits: Tensor, labels: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Return the mean loss over images and mixed images, as the authors' code weighs them; logits [2 N, K].

    It is one half of the paper's sum. The loss of a mixed image is that of both labels, by their shares.
    """
    own, both = logits.chunk(2)
    shared = share * loss(both, labels) + (1 - share) * loss(both, labels[partner])
    return (loss(own, labels) + shared) / 2
