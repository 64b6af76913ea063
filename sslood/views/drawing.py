"""Networks that dropout draws of one classifier, and what they say of an image together.

Gal and Ghahramani, "Dropout as a Bayesian Approximation", arXiv:1506.02142.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sslood.core.batches import batches, normalised
from sslood.core.seeding import numpy_stream
from sslood.nets.networks.model import Model
from sslood.ood.kit.committee import COMMITTEE
from sslood.ood.kit.network_detector import BATCH, exact, widened
from sslood.views.ensemble import Member, Progress
from sslood.views.resolutions import dropout_layers, dropping

RATE = 0.5  # share of the features dropped, of a network without dropout layers


def drawn_by(model: Model) -> Callable[[Tensor, int], Tensor]:
    """Return images [N, C, H, W], count -> logits [count, N, K] of so many draws of a classifier.

    A draw drops the same units for all images: what its dropout layers drop in training or, without such
    layers, half of the features before the head.
    """
    layers = dropout_layers(model)

    def through_layers(images: Tensor, count: int) -> Tensor:
        found = []
        for draw in range(count):
            with dropping(layers, draw):
                found.append(model(images))
        return torch.stack(found)

    def at_the_head(images: Tensor, count: int) -> Tensor:
        features, head = model.features(images), model.need_head()
        kept = numpy_stream(0, "dropout").random((count, features.shape[1])) >= RATE
        factors = torch.from_numpy(kept).to(features) / (1 - RATE)
        return torch.stack([head(features * factor) for factor in factors])

    return through_layers if layers else at_the_head


def mc_dropout(
    member: Member,
    images: np.ndarray,
    draws: int,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = lambda count: None,
) -> np.ndarray:
    """Return the negative largest mean probability [N] of `draws` networks, for uint8 [N, C, H, W] images.

    Larger = more OOD. The member must have `drawn`.
    """
    assert member.drawn is not None
    pieces = []
    with exact(), torch.inference_mode():
        stream = batches(images, BATCH)
        for batch in normalised(stream, member.mean, member.std, device=device, dtype=member.dtype):
            probabilities = widened(member.drawn(batch, draws)).softmax(2)
            pieces.append(COMMITTEE["msp"](probabilities).cpu().numpy())
            progress(len(batch))
    return np.concatenate(pieces)
