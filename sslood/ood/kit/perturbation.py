"""A step of the image towards its predicted class, as in ODIN, and the choice of its size.

Liang, Li and Srikant: Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks,
ICLR 2018, arXiv:1706.02690.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sslood.ood.measures.metrics import ood_metrics


def gradient_sign(
    forward: Callable[[Tensor], Tensor], images: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return (sign of the gradient of CE(f(x) / T, argmax f(x)) at the images, their logits).

    The cross-entropy is summed over the batch, so that each image has its own gradient. Where the
    gradient is exactly zero the sign is 0, and the image stays.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = forward(images)
        loss = cross_entropy(logits / temperature, logits.detach().argmax(dim=1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient.sign(), logits.detach()


def perturb(images: Tensor, sign: Tensor, epsilon: float, std: Sequence[float]) -> Tensor:
    """Return x - epsilon / std * sign: a step that makes the predicted class more likely.

    The images are normalised; dividing by each channel's std makes epsilon a step in pixels of [0, 1],
    as in ODIN's and the ensemble's published values (0.001 to 0.004). Pixels may leave [0, 1].
    """
    scale = torch.as_tensor(std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    return images - epsilon / scale * sign


def best_epsilon(
    epsilons: Sequence[float], id_scores: Sequence[np.ndarray], ood_scores: Sequence[np.ndarray]
) -> tuple[float, dict[str, float]]:
    """Return (the epsilon with the highest AUROC, the smallest of equals; AUROC of each candidate).

    Scores of each candidate, [N] and [M], of validation images only.
    """
    aurocs = [
        float(ood_metrics(inside, outside)["auroc"])
        for inside, outside in zip(id_scores, ood_scores, strict=True)
    ]
    best = max(range(len(epsilons)), key=lambda index: (aurocs[index], -epsilons[index]))
    return epsilons[best], {str(epsilon): auroc for epsilon, auroc in zip(epsilons, aurocs, strict=True)}
