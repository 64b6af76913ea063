"""The joint score of a classifier that also tells quarter turns (Hendrycks et al. 2019, section 4)."""

import math

import torch
from torch import Tensor

from sslood.ood.kit.network_detector import Network, NetworkDetector, widened
from sslood.ood.network.rotation import rotation_score


class RotPred(NetworkDetector):
    """-1/4 sum_r log q(r | x turned by r quarters) - KL(uniform || p(. | x)), in nats.

    p is the distribution over the classes, q that over the turns: an image is OOD whose turns are hard to
    tell and whose class is undecided.
    """

    reads = ("gradients", "rotations")

    def _score(self, network: Network, batch: Tensor) -> Tensor:
        return rotation_score(network, batch) - _decided(network, batch)


@torch.inference_mode()
def _decided(network: Network, batch: Tensor) -> Tensor:
    """Return KL(uniform || p(. | x)) [N] of the classes, float64: 0 where all are as likely."""
    logs = widened(network.gradients(batch)).log_softmax(1)
    return -math.log(logs.shape[1]) - logs.mean(1)
