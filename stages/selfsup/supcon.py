"""SupCon: supervised contrastive learning, the form L_out (Khosla et al. 2020, eq. 2)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.core.errors import InputError
from stages.selfsup.losses.contrastive import repulsion
from stages.selfsup.objective import TwoViews


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


@dataclass(frozen=True)
class Constants:
    """Widths of the projector's layers (no batch norm), and the temperature."""

    projector: tuple[int, ...]
    temperature: float

    def __post_init__(self):
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}; it must be above 0")


class SupCon(TwoViews):
    """As SimCLR, with all views of an image's class as its positives. InputError for a single class."""

    Constants = Constants
    batch_norm: ClassVar[bool] = False

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        if classes < 2:
            raise InputError(
                "objective supcon: the ID set has a single class; use simclr, which needs no labels"
            )
        super().__init__(backbone, constants, classes=classes)

    def loss(self, z1: Tensor, z2: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return supcon(z1, z2, labels, self.constants.temperature)
