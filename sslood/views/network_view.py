"""A model as the functions that detectors of the network ask: gradients, maps of its layers, rotations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslood.nets.inference.extract import check_batch_invariance
from sslood.nets.networks.files import Model, check_fits
from sslood.ood.kit.network_detector import Network


def layers(backbone: nn.Module) -> list[nn.Module]:
    """Return every convolution, and every block that is made of convolutions directly, in order.

    The backbone itself is no block.
    """
    found = []
    for module in backbone.modules():
        holds = any(isinstance(child, nn.Conv2d) for child in module.children())
        if module is not backbone and (isinstance(module, nn.Conv2d) or holds):
            found.append(module)
    return found


def open_model(
    model: Model, *, mean: Sequence[float], std: Sequence[float], device: torch.device | str
) -> Network:
    """Return what can be asked of `model`, which is put into eval mode and takes no gradients."""
    model.eval().requires_grad_(False)
    classifies, turns = model.head is not None, model.rotation is not None

    def maps(x: Tensor, read: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        found: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda module, inputs, output: found.append(read(output)))
            for layer in layers(model.backbone)
        ]
        try:
            logits = model(x)
        finally:
            for hook in hooks:
                hook.remove()
        return found, logits

    rotation = model.rotation

    def rotations(x: Tensor) -> Tensor:
        assert rotation is not None
        return rotation(model.features(x))

    return Network(
        mean,
        std,
        gradients=model if classifies else None,
        maps=maps if classifies else None,
        rotations=rotations if turns else None,
        device=device,
        dtype=next(model.parameters()).dtype,
    )


def checked_network(
    model: Model,
    metadata: Mapping[str, Any],
    where: str | Path,
    parts: Sequence[tuple[np.ndarray, Mapping[str, Any]]],
) -> Network:
    """Return `open_model` of a model and its file's metadata, on the device of its weights.

    parts: (uint8 images [N, C, H, W], metadata of their set) that the network will see, of the ID set first.
    Raises InputError naming `where` if they do not fit the model, or the network mixes the images of a batch.
    """
    for _, about in parts:
        check_fits(metadata, about, where, id_set=about["name"] == metadata["id"])
    preprocessing = {"mean": metadata["mean"], "std": metadata["std"]}
    check_batch_invariance(model, parts[0][0], name=metadata["name"], **preprocessing)
    return open_model(model, device=next(model.parameters()).device, **preprocessing)
