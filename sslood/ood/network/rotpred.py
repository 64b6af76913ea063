"""The joint score of a classifier that also recognises quarter turns.

Section 4 of Hendrycks, Mazeika, Kadavath and Song: Using Self-Supervised Learning Can Improve Model
Robustness and Uncertainty, NeurIPS 2019, arXiv:1906.12340.
"""

import math

import numpy as np
import torch
from torch import Tensor

from sslood.ood.kit.network_detector import Network, NetworkDetector, widened
from sslood.ood.network.rotation import rotation_score


class RotPred(NetworkDetector):
    """-1/4 sum_r log q(r | x turned by r quarters) - KL(uniform || p(. | x)), in nats.

    p is the distribution over the classes, q that over the turns: an image is OOD if its turns are hard to
    recognise and its class is undecided.
    """

    reads = ("gradients", "rotations")

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return rotation_score(network, batch) - _decided(network, batch)


@torch.inference_mode()
def _decided(network: Network, batch: Tensor) -> Tensor:
    """Return KL(uniform || p(. | x)) [N] of the classes, float64: 0 where all are as likely."""
    logs = widened(network.need_gradients()(batch)).log_softmax(1)
    return -math.log(logs.shape[1]) - logs.mean(1)
