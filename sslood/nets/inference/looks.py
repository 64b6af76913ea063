"""More than one look: features that are a mean over an image, its mirror image, and both shifted.

The test-time augmentation of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498,
section 3.5). A linear head gives the mean of the logits then. A mirror image suits images that mean the same
so: photographs, not digits or letters.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.nets.networks.model import Model


@dataclass(frozen=True)
class Looks:
    """How often a network sees an image: once, its `mirror` image too, and both moved by `shift` pixels too.

    The mean over what is moved to the upper left and to the lower right counts as much as what is not moved:
    weights 1/4, 1/4 and 1/2. Six looks in all with `mirror`, three without.
    """

    mirror: bool = False
    shift: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Looks":
        """Return the looks that the metadata of an embeddings or detector file name."""
        return cls(metadata.get("mirror", False), metadata.get("shift", 0))

    def metadata(self) -> dict[str, Any]:
        """Return what tells them in the metadata of a file; nothing for a single look."""
        return {key: value for key, value in vars(self).items() if value}

    def check(self, size: int, where: str) -> None:
        """Raise InputError, which begins with `where`, for a shift that images of `size` pixels forbid."""
        if not isinstance(self.shift, int) or not 0 <= self.shift < size:
            raise InputError(
                f"{where} is {self.shift!r}, and images have {size} pixels a side; give a whole number from "
                f"0 to {size - 1}"
            )

    @property
    def count(self) -> int:
        """How many images the network sees for one."""
        return (2 if self.mirror else 1) * (3 if self.shift else 1)


class Looking(nn.Module):
    """A backbone that sees each image more than once: [N, C, H, W] -> the mean of its features [N, D]."""

    def __init__(self, backbone: nn.Module, looks: Looks):
        super().__init__()
        self.backbone, self.looks = backbone, looks

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of the features over the looks at normalised images. A border is reflected."""
        at_rest = self._facing(x)
        if not (by := self.looks.shift):
            return at_rest
        padded = F.pad(x, (by, by, by, by), "reflect")
        upper, lower = padded[..., : -2 * by, : -2 * by], padded[..., 2 * by :, 2 * by :]
        return (at_rest + (self._facing(upper) + self._facing(lower)) / 2) / 2

    def _facing(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(x)
        return (features + self.backbone(x.flip(3))) / 2 if self.looks.mirror else features


def seeing(model: Model, looks: Looks) -> Model:
    """Return a model that shares the weights of `model` and takes these looks; itself for a single one."""
    return _with_backbone(model, Looking(model.backbone, looks)) if looks.count > 1 else model


def seen_once(model: Model) -> Model:
    """Return `model` itself or, if it comes from `seeing`, the model that was given."""
    backbone = model.backbone
    return _with_backbone(model, backbone.backbone) if isinstance(backbone, Looking) else model


def as_fitted(model: Model, metadata: Mapping[str, Any]) -> Model:
    """Return `model` as the detectors that go with its metadata saw images; InputError for a bad shift."""
    looks = Looks.of(metadata)
    looks.check(metadata["size"], f"{metadata['name']}: the shift of its looks")
    return seeing(model, looks)


def _with_backbone(model: Model, backbone: nn.Module) -> Model:
    other = copy.copy(model)
    other._modules = {**model._modules, "backbone": backbone}
    return other
