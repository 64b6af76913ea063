"""Rotation score: how badly the network recognises how an image is turned.

The self-supervised part alone of section 4 in Hendrycks, Mazeika, Kadavath and Song: Using Self-Supervised
Learning Can Improve Model Robustness and Uncertainty, NeurIPS 2019, arXiv:1906.12340; `rotpred` adds that of
the classes.
"""

import numpy as np
import torch
from torch import Tensor

from sslood.ood.kit.network_detector import Network, NetworkDetector, widened


@torch.inference_mode()
def turned_log_probabilities(network: Network, batch: Tensor) -> Tensor:
    """Return log q(s | x turned by r quarters), float64 [N, 4 (r), 4 (s)], of square images [N, C, H, H]."""
    logits = [network.need_rotations()(batch.rot90(r, (2, 3))) for r in range(4)]
    return widened(torch.stack(logits, 1)).log_softmax(2)


def rotation_score(network: Network, batch: Tensor) -> Tensor:
    """Return -1/4 sum_r log q(r | x turned by r quarters), in nats: float64 [N]."""
    return -turned_log_probabilities(network, batch).diagonal(dim1=1, dim2=2).mean(1)


class Rotation(NetworkDetector):
    """-1/4 sum_r log q(r | x turned by r quarters), in nats.

    The simplified score of Golan and El-Yaniv (2018, arXiv:1805.10917) is the mean of the probabilities
    instead of their logarithms.
    """

    reads = ("rotations",)

    def _score(self, network: Network, batch: Tensor, state: dict[str, np.ndarray]) -> Tensor:
        return rotation_score(network, batch)
