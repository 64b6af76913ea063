"""Indecision about how an image is turned.

The divergence that Hendrycks et al. (2019, arXiv:1906.12340) take over the classes, taken over the turns.
"""

import math

import numpy as np
from torch import Tensor

from sslood.ood.kit.network_detector import Network, NetworkDetector
from sslood.ood.network.rotation import turned_log_probabilities


class RotationUniform(NetworkDetector):
    """-1/4 sum_r KL(uniform || q(. | x turned by r quarters)), in nats: flat predictions are more OOD.

    Unlike the rotation score it does not ask whether the predictions are right.
    """

    reads = ("rotations",)

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return math.log(4) + turned_log_probabilities(network, batch).mean((1, 2))
