"""A second look: features that are the mean of those of an image and of its mirror image.

The flip half of the test-time augmentation of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
(arXiv:2404.00498, section 3.5). A linear head gives the mean of both logits then. It takes
twice the time, and suits images whose mirror image means the same: photographs, not digits or letters.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sslood.nets.networks.model import Model

MIRROR = "mirror"  # the key of an embeddings file, and of the model's metadata in a detector file


class Mirrored(nn.Module):
    """A backbone that sees each image twice: [N, C, H, W] -> the mean of both features [N, D]."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of the features of normalised images and of their mirror images."""
        features: Tensor = (self.backbone(x) + self.backbone(x.flip(3))) / 2
        return features


def mirrored(model: Model) -> Model:
    """Return a model that shares the weights of `model`, and whose backbone sees each image twice."""
    return _with_backbone(model, Mirrored(model.backbone))


def seen_once(model: Model) -> Model:
    """Return `model` itself or, if it is `mirrored`, the model that was given."""
    backbone = model.backbone
    return _with_backbone(model, backbone.backbone) if isinstance(backbone, Mirrored) else model


def as_fitted(model: Model, metadata: Mapping[str, Any]) -> Model:
    """Return `model` as the detectors that go with its metadata saw images: twice if that says so."""
    return mirrored(model) if metadata.get(MIRROR) else model


def _with_backbone(model: Model, backbone: nn.Module) -> Model:
    other = copy.copy(model)
    other._modules = {**model._modules, "backbone": backbone}
    return other
