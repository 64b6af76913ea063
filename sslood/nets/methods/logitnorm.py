"""LogitNorm: cross-entropy of logits of one length, so that the network cannot grow sure by growing them.

Wei et al. 2022, "Mitigating neural network overconfidence with logit normalization", arXiv:2205.09310, eq. 4.
"""

from torch import Tensor

_SMALL = 1e-7  # the authors'


def normalised_logits(logits: Tensor, temperature: float) -> Tensor:
    """Return u / (temperature (|u| + 1e-7)) of logits u [N, K]; the paper's temperature for CIFAR-10 is 0.04.

    For training alone: the network is tested on u itself.
    """
    return logits / (temperature * (logits.norm(dim=1, keepdim=True) + _SMALL))
