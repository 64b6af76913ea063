"""A model: a backbone with the modules that its file holds besides."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.nets.networks.gaussian import GaussianHead


class Model(nn.Module):
    """A backbone with, where the file has them, a linear head, a projector, and a Gaussian with its prior.

    `rotation` is the linear classifier of quarter turns that rotation prediction leaves behind. `space` says
    where the Gaussian is: "h", on the backbone's features, or "z", on the projections.
    """

    head: nn.Linear | None
    projector: nn.Sequential | None
    gaussian: GaussianHead | None
    prior: nn.Module | None
    rotation: nn.Linear | None

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Linear | None = None,
        projector: nn.Sequential | None = None,
        gaussian: GaussianHead | None = None,
        prior: nn.Module | None = None,
        space: str | None = None,
        rotation: nn.Linear | None = None,
    ):
        super().__init__()
        self.backbone, self.head, self.projector = backbone, head, projector
        self.gaussian, self.prior, self.space = gaussian, prior, space
        self.rotation = rotation

    @property
    def dtype(self) -> torch.dtype:
        """The floating type that it computes in."""
        return next(value.dtype for value in self.parameters() if value.is_floating_point())

    def features(self, x: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> features [N, D], before the head; of a Gaussian on h its mean."""
        return self.embedded(x)["features"]

    def embedded(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [N, C, H, W] -> features [N, D], projections [N, P], mu and log_variance.

        What the model does not have is left out. Projections are those of the mean of a Gaussian.
        """
        parts = {"features": self.backbone(x)}
        if self.gaussian is not None and self.space == "h":
            parts["mu"], parts["log_variance"] = self.gaussian(parts["features"])
            parts["features"] = parts["mu"]
        if self.projector is not None:
            parts["projections"] = self.projector(parts["features"])
        if self.gaussian is not None and self.space == "z":
            parts["mu"], parts["log_variance"] = self.gaussian(parts["projections"])
            parts["projections"] = parts["mu"]
        return parts

    def need_head(self) -> nn.Linear:
        """Return the head; InputError if the model has none."""
        if self.head is None:
            raise InputError(
                "this model is an encoder without a classifier head; train one with the stage `train`"
            )
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> logits [N, K]; InputError if the model has no head."""
        return self.need_head()(self.features(x))


def as_state(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return tensors as a state dict with the versions of `own`, a module's: some refuse one without."""
    state = OrderedDict(tensors)
    state._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    return state
