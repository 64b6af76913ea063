"""CIDER: features of unit length, compact around one prototype per class, and prototypes far from each other.

Ming et al. 2023, "How to exploit hyperspherical embeddings for out-of-distribution detection?",
arXiv:2203.04450, eq. 5 to 7.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from sslood.core.needs import CLASSIFIED
from sslood.core.settings import Limits, at_least
from sslood.nets.networks.backbone import Backbone
from sslood.nets.selfsup.contrastive import Contrastive, ContrastiveSettings
from sslood.nets.selfsup.objective import need_classes

SPARE = 16  # vectors of one class in a batch, beyond twice the mean of classes


@dataclass(frozen=True)
class CIDERSettings(ContrastiveSettings):
    """Settings of CIDER."""

    weight: Annotated[float, at_least(0), "weight of the compactness beside the dispersion (2 in OpenOOD)"]
    ema: Annotated[float, Limits(0, 1, high_included=False), "of the prototypes' moving average"]


def moved(prototypes: Tensor, h: Tensor, labels: Tensor, ema: float) -> Tensor:
    """Return the prototypes [K, D] after the unit vectors h [M, D] with labels [M].

    p <- ema p + (1 - ema) h, brought to unit length, for each vector of the class in turn (eq. 7). The length
    matters: vectors that point apart shorten p, and without it the last few of them would be the prototype.
    A prototype that starts at 0 takes the direction of its class's first vector, and stays 0 until then. All
    classes move at once, in as many steps as a class has vectors; how many is not asked of the device, so
    those beyond twice the mean and SPARE more come together, at the end.
    """
    classes, steps = len(prototypes), min(len(h), 2 * -(-len(h) // len(prototypes)) + SPARE)
    member = (labels[:, None] == torch.arange(classes, device=labels.device)).to(h.dtype)
    rank = (member.cumsum(0) * member).sum(1).long() - 1
    counts = member.sum(0)[:, None]
    places = (rank.clamp(max=steps), labels)
    queue = h.new_zeros(steps + 1, classes, h.shape[1]).index_put(places, h, accumulate=True)
    for step in range(steps):
        after = normalize(ema * prototypes + (1 - ema) * queue[step], dim=1)
        prototypes = torch.where(counts > step, after, prototypes)
    late = (counts - steps).clamp_min(0)
    after = normalize(ema**late * prototypes + (1 - ema) * queue[steps], dim=1)
    return torch.where(late > 0, after, prototypes)


def compactness(h: Tensor, prototypes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return -mean_i log of the softmax over prototypes of h_i . p / temperature, at its label (eq. 5)."""
    return cross_entropy(h @ prototypes.T / temperature, labels)


def dispersion(prototypes: Tensor, temperature: float) -> Tensor:
    """Return mean_j log mean_{k != j} exp(p_j . p_k / temperature) of prototypes [K, D] (eq. 6)."""
    similarity = prototypes @ prototypes.T / temperature
    itself = torch.eye(len(prototypes), dtype=torch.bool, device=prototypes.device)
    return similarity.masked_fill(itself, -torch.inf).logsumexp(1).mean() - math.log(len(prototypes) - 1)


class CIDER(Contrastive):
    """weight * compactness + dispersion on the projections of two views. LeftOut for a single class.

    The gradient of the dispersion reaches the network through the vectors by which the prototypes moved; to
    the compactness the prototypes are constants.
    """

    Settings = CIDERSettings
    needs = (CLASSIFIED,)
    prototypes: Tensor

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        need_classes("cider", classes)
        super().__init__(backbone, settings, classes=classes)
        self.register_buffer("prototypes", torch.zeros(classes, settings.projector[-1]))

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h, both = normalize(torch.cat((z1, z2)), dim=1), torch.cat((labels, labels))
        prototypes = moved(self.prototypes.to(h.dtype), h, both, self.settings.ema)
        self.prototypes.copy_(prototypes.detach())
        terms = {
            "compactness": compactness(h, prototypes.detach(), both, self.settings.temperature),
            "dispersion": dispersion(prototypes, self.settings.temperature),
        }
        return self.settings.weight * terms["compactness"] + terms["dispersion"], terms
