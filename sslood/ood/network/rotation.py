"""Rotation score (Hendrycks et al. 2019, section 4): how badly the network tells how an image is turned.

The self-supervised part alone; `rotpred` has that of the classes, too.
"""

import torch
from torch import Tensor

from sslood.ood.kit.network_detector import Network, NetworkDetector, widened


@torch.inference_mode()
def turned_log_probabilities(network: Network, batch: Tensor) -> Tensor:
    """Return log q(s | x turned by r quarters), float64 [N, 4 (r), 4 (s)], of square images [N, C, H, H]."""
    logits = [network.rotations(batch.rot90(r, (2, 3))) for r in range(4)]
    return widened(torch.stack(logits, 1)).log_softmax(2)


def rotation_score(network: Network, batch: Tensor) -> Tensor:
    """Return -1/4 sum_r log q(r | x turned by r quarters), in nats: float64 [N]."""
    return -turned_log_probabilities(network, batch).diagonal(dim1=1, dim2=2).mean(1)


class Rotation(NetworkDetector):
    """-1/4 sum_r log q(r | x turned by r quarters), in nats.

    Golan and El-Yaniv's (2018) simplified score is the mean of the probabilities instead of their logarithms.
    """

    reads = ("rotations",)

    def _score(self, network: Network, batch: Tensor) -> Tensor:
        return rotation_score(network, batch)
