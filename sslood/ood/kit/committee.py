"""What several networks, or draws of one, say of an image together: how undecided, and how divided they are.

Gal: Uncertainty in Deep Learning, 2016, section 3.3 (variation ratio, predictive entropy, mutual
information); Lakshminarayanan, Pritzel and Blundell, arXiv:1612.01474 (deep ensembles).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor


def undecided(probabilities: Tensor) -> Tensor:
    """Return -max_c mean_m p_mc [N], the negative largest probability of the mean."""
    return -probabilities.mean(0).amax(1)


def entropy(probabilities: Tensor) -> Tensor:
    """Return H(mean_m p_m) [N] in nats, the predictive entropy."""
    return _entropy(probabilities.mean(0))


def mutual_information(probabilities: Tensor) -> Tensor:
    """Return H(mean_m p_m) - mean_m H(p_m) [N] in nats, at least 0: what the members disagree on."""
    return (_entropy(probabilities.mean(0)) - _entropy(probabilities).mean(0)).clamp_min(0.0)


def variation_ratio(probabilities: Tensor) -> Tensor:
    """Return the share [N] of the members that do not predict what most do, a multiple of 1 / M."""
    votes = torch.nn.functional.one_hot(probabilities.argmax(2), probabilities.shape[2])
    return 1 - votes.double().mean(0).amax(1)


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


# scores of probabilities float64 [M, N, K] of M members or draws: float64 [N], larger = more OOD
COMMITTEE: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "msp": undecided,
        "entropy": entropy,
        "mutual_information": mutual_information,
        "variation_ratio": variation_ratio,
    }
)
