"""Rotation score (Hendrycks et al. 2019): how badly the network tells how an image is turned."""

import torch
from torch import Tensor

from stages.ood.network.detector import Network, NetworkDetector, widened


@torch.inference_mode()
def turned_log_probabilities(network: Network, batch: Tensor) -> Tensor:
    """Return log q(s | x turned by r quarters), float64 [N, 4 (r), 4 (s)], of square images [N, C, H, H]."""
    logits = [network.rotations(batch.rot90(r, (2, 3))) for r in range(4)]
    return widened(torch.stack(logits, 1)).log_softmax(2)


class Rotation(NetworkDetector):
    """-1/4 sum_r log q(r | x turned by r quarters), in nats."""

    reads = "rotations"

    def _score(self, network: Network, batch: Tensor) -> Tensor:
        return -turned_log_probabilities(network, batch).diagonal(dim1=1, dim2=2).mean(1)
