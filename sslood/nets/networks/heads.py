"""What stands on a backbone: a linear classifier, and the projector of self-supervised objectives."""

from collections.abc import Sequence

from torch import nn

from sslood.core.errors import InputError
from sslood.nets.networks.initialise import he_normal_, normal_


def build_head(feature_dim: int, classes: int) -> nn.Linear:
    """Return a linear classifier, normal weights of variance 1 / feature_dim and zero bias.

    Draws from torch's default generator (see `seeded`).
    """
    head = nn.Linear(feature_dim, classes)
    normal_(head.weight, std=feature_dim**-0.5)
    nn.init.zeros_(head.bias)
    return head


def build_projector(
    feature_dim: int,
    widths: Sequence[int],
    *,
    batch_norm: bool = True,
    activation: type[nn.Module] = nn.ReLU,
    key: str = "projector",
) -> nn.Sequential:
    """Return linear layers of `widths` with (batch norm and) `activation` between them, none after the last.

    The last width is that of the projection. With batch norm no layer has a bias, as in Barlow Twins (batch
    norm would take it away again); without it every layer has one. InputError that names the settings' `key`
    if `widths` is empty or not positive.
    """
    if not widths or min(widths) < 1:
        raise InputError(f"{key}: needs a list of widths of at least 1, found {list(widths)}")
    layers: list[nn.Module] = []
    for position, (inputs, width) in enumerate(zip((feature_dim, *widths), widths, strict=False)):
        layer = nn.Linear(inputs, width, bias=not batch_norm)
        he_normal_(layer.weight, "fan_in")
        if not batch_norm:
            nn.init.zeros_(layer.bias)
        layers.append(layer)
        if position < len(widths) - 1:
            layers += [nn.BatchNorm1d(width), activation()] if batch_norm else [activation()]
    return nn.Sequential(*layers)
