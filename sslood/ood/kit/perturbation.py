"""A small step of an image that makes the predicted class more likely, and the choice of its length.

Liang, Li and Srikant, "Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks"
(ODIN), arXiv:1706.02690; Vyas et al., "Out-of-Distribution Detection Using an Ensemble of Self Supervised
Leave-out Classifiers", arXiv:1809.03576.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sslood.core.errors import LeftOut
from sslood.ood.kit.network_detector import widened
from sslood.ood.kit.tempered import entropy_below_uniform
from sslood.ood.measures.metrics import nan_among, ood_metrics

Forward = Callable[[Tensor], Tensor]
Target = Literal["predicted", "entropy"]


def gradient_sign(forward: Forward, images: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return (sign of the gradient of CE(f(x) / T, argmax f(x)) at the images [N, C, H, W], their logits)."""
    (sign,), logits = gradient_signs(forward, images, [("predicted", temperature)])
    return sign, logits


def gradient_signs(
    forward: Forward, images: Tensor, targets: Sequence[tuple[Target, float]]
) -> tuple[list[Tensor], Tensor]:
    """Return (sign of the gradient at the images [N, C, H, W] of each target, their logits), in one pass.

    A target is ("predicted", T): CE(f(x) / T, argmax f(x)), as in ODIN; or ("entropy", T): the entropy of
    softmax(f(x) / T), as in the ensemble's paper. Both are summed over the batch, so that each image has its
    own gradient. Where the gradient is exactly zero the sign is 0, and the pixel does not change.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = forward(images)
        losses = [_loss(logits, target, temperature) for target, temperature in targets]
        last = len(losses) - 1
        signs = [
            torch.autograd.grad(loss, images, retain_graph=index < last)[0].sign()
            for index, loss in enumerate(losses)
        ]
    return signs, logits.detach()


def _loss(logits: Tensor, target: Target, temperature: float) -> Tensor:
    if target == "predicted":
        return cross_entropy(logits / temperature, logits.detach().argmax(dim=1), reduction="sum")
    return entropy_below_uniform(widened(logits), temperature).sum()  # the constant log K has no gradient


def perturb(images: Tensor, sign: Tensor, epsilon: float, std: Sequence[float]) -> Tensor:
    """Return x - epsilon / std * sign: a step that makes the predicted class more likely.

    The images are normalised; dividing by each channel's std makes epsilon a step in pixels of [0, 1],
    as in ODIN's and the ensemble's published values (0.001 to 0.004). Pixels may leave [0, 1].
    """
    scale = torch.as_tensor(std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    return images - epsilon / scale * sign


def choose_epsilon(
    epsilons: Sequence[float], inside: Iterable[np.ndarray], outside: Iterable[np.ndarray]
) -> tuple[float, dict[str, float]]:
    """Return (the epsilon with the highest AUROC, the smallest of equals; AUROC of each candidate).

    inside, outside: scores [N] per epsilon of ID validation and tuning images, larger = more OOD; never of
    test images. Raises LeftOut, naming the split, if one is NaN.
    """
    inside, outside = list(inside), list(outside)
    for pair in zip(inside, outside, strict=True):
        if reason := nan_among(dict(zip(("validation", "tuning"), pair, strict=True))):
            raise LeftOut(reason)
    aurocs = [ood_metrics(a, b)["auroc"] for a, b in zip(inside, outside, strict=True)]
    best = max(range(len(epsilons)), key=lambda index: (aurocs[index], -epsilons[index]))
    return epsilons[best], {str(epsilon): auroc for epsilon, auroc in zip(epsilons, aurocs, strict=True)}
