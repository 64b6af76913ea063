"""Rotation prediction: tell by how many quarter turns an image is turned (Gidaris et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.models.heads import build_head
from stages.selfsup.objective import Objective
from stages.training.watch import spread


def rotations(x: Tensor) -> Tensor:
    """Return images [N, C, H, H] turned by 0, 1, 2, 3 quarters (anticlockwise), as [4 N, C, H, H]."""
    return torch.cat([x.rot90(quarters, (2, 3)) for quarters in range(4)])


@dataclass(frozen=True)
class Constants:
    """There is nothing to set."""


class Rotation(Objective):
    """One view of each image in all four positions, and a linear classifier of the position."""

    Constants = Constants
    views: ClassVar[int] = 1

    def __init__(self, backbone: nn.Module, constants: Any, *, classes: int):
        super().__init__(backbone, constants, classes=classes)
        self.head = build_head(backbone.feature_dim, 4)

    def forward(
        self, backbone: nn.Module, views: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        turned = rotations(views[0]).contiguous(memory_format=torch.channels_last)
        features = backbone(turned)
        logits = self.head(features).float()
        truth = torch.arange(4, device=logits.device).repeat_interleave(len(labels))
        accuracy = (logits.argmax(1) == truth).float().mean()
        return cross_entropy(logits, truth), {"accuracy": accuracy, "spread": spread(features)}

    def exported(self) -> Mapping[str, nn.Module]:
        return {"rotation": self.head}
