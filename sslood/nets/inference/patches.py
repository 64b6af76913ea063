"""Where in the picture: the last spatial map of a network, one vector per patch, before it is pooled.

A backbone that says where its map is lets it pass through an nn.Identity called `patches`. Otherwise it is
what the last module gave that returned a map: [N, D, h, w] of more than one place, or the tokens
[N, 1 + hw, D] of a transformer, whose first (class and register tokens) have no place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sslood.core.errors import InputError
from sslood.nets.inference.extract import outputs
from sslood.nets.networks.model import Model


def patch_maps(model: Model, x: Tensor) -> Tensor:
    """Normalised images [N, C, H, W] -> the map [N, D, h, w] before pooling; see `with_patches`."""
    return with_patches(model, x)[1]


@torch.inference_mode()
def with_patches(model: Model, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Normalised images [N, C, H, W] -> (`outputs` of the model, the map [N, D, h, w]), from one forward.

    The outputs are those without the map, to the bit. Raises InputError if no part of the network gives one.
    """
    with _watched(model.backbone) as found:
        parts = outputs(model, x)
    for kind in ("patches", "tokens", "map"):
        if kind in found:
            return parts, found[kind]
    raise InputError(
        "the network gives no map of patches, so it cannot say where in a picture something is; use a "
        "convolutional network or a vision transformer"
    )


@contextmanager
def _watched(backbone: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the maps of the forward inside: the marked one, the last tokens, the last spatial one."""
    found: dict[str, Tensor] = {}

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        # among tokens, what has four axes is attention, unless a convolution gives it
        spatial = "tokens" not in found or isinstance(module, nn.Conv2d)
        if output.ndim == 4 and spatial and output.shape[2] * output.shape[3] > 1:
            found["map"] = output
            found.pop("tokens", None)
        elif output.ndim == 3 and "map" in found and output.shape[1] >= found["map"][0, 0].numel():
            found["tokens"] = as_map(output, tuple(found["map"].shape[2:]))

    def mark(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found["patches"] = output

    marked = getattr(backbone, "patches", None)
    if isinstance(marked, nn.Identity):
        hooks = [marked.register_forward_hook(mark)]
    else:
        hooks = [part.register_forward_hook(see) for part in backbone.modules() if part is not backbone]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def as_map(tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Tokens [N, L, D] -> the last h * w of them as a map [N, D, h, w]; `shape` is (h, w)."""
    count = shape[0] * shape[1]
    return tokens[:, tokens.shape[1] - count :].transpose(1, 2).unflatten(2, shape)
