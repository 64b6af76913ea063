"""SupCon: supervised contrastive learning, the form L_out.

Khosla et al. 2020, "Supervised contrastive learning", arXiv:2004.11362, eq. 2.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sslood.core.needs import CLASSIFIED
from sslood.nets.networks.backbone import Backbone
from sslood.nets.selfsup.contrastive import Contrastive
from sslood.nets.selfsup.losses.contrastive import repulsion
from sslood.nets.selfsup.objective import need_classes


def positive_similarity(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return mean_i 1 / |P(i)| sum_{p in P(i)} z_i . z_p / temperature, P(i) the others of i's label.

    z are unit vectors [M, D], labels [M]; every label occurs at least twice.
    """
    same = (labels[:, None] == labels[None, :]).to(z.dtype)
    same = same - torch.eye(len(z), dtype=z.dtype, device=z.device)
    similarity = z @ z.T / temperature
    return ((similarity * same).sum(1) / same.sum(1)).mean()


def supcon(z1: Tensor, z2: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, terms) of projections [N, D] with labels [N]; the logarithm outside the mean (L_out)."""
    z = normalize(torch.cat((z1, z2)), dim=1)
    terms = {
        "alignment": -positive_similarity(z, torch.cat((labels, labels)), temperature),
        "repulsion": repulsion(z, temperature),
    }
    return terms["alignment"] + terms["repulsion"], terms


class SupCon(Contrastive):
    """As SimCLR, with all views of an image's class as its positives. LeftOut for a single class."""

    needs = (CLASSIFIED,)

    def __init__(self, backbone: Backbone, settings: Any, *, classes: int):
        need_classes("supcon", classes)
        super().__init__(backbone, settings, classes=classes)

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return supcon(z1, z2, labels, self.settings.temperature)
