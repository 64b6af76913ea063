"""Networks that dropout draws of one classifier, and what they say of an image together.

Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation", arXiv:1506.02142.
"""

import numpy as np
import torch
from torch import Tensor

from sslood.core.seeding import numpy_stream
from sslood.ood.kit.committee import COMMITTEE
from sslood.ood.kit.network_detector import Network, Progress, exact, widened

RATE = 0.5  # share of the features dropped, of a network without dropout layers


@torch.inference_mode()
def drawn(network: Network, batch: Tensor, draws: int, rate: float = RATE) -> Tensor:
    """Return the probabilities of each draw for normalised images [N, C, H, W], float64 [draws, N, K].

    A draw drops the same units for all images: what the network's dropout layers drop in training or, if it
    has none, the share `rate` of the features before the head.
    """
    if network.dropped is not None:
        logits = [network.dropped(batch, draw) for draw in range(draws)]
    else:
        head = network.need_head()
        _, features = network.once("stages", batch, lambda x: network.need_stages()(x, {}))
        kept = numpy_stream(0, "dropout").random((draws, features.shape[1])) >= rate
        factors = torch.from_numpy(kept).to(features) / (1 - rate)
        logits = [head(features * factor) for factor in factors]
    return widened(torch.stack(logits)).softmax(2)


def mc_dropout(
    network: Network, images: np.ndarray, draws: int, progress: Progress = lambda count: None
) -> np.ndarray:
    """Return the negative largest mean probability [N] of `draws` networks, for uint8 images [N, C, H, W].

    Larger = more OOD.
    """
    with exact():
        batches = network.batches(images, progress)
        pieces = [COMMITTEE["msp"](drawn(network, batch, draws)).cpu().numpy() for batch in batches]
    network.forget()
    return np.concatenate(pieces)
