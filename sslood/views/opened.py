"""A model as the functions that detectors of the network query: gradients, maps of its layers, rotations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sslood.nets.networks.model import Model
from sslood.ood.kit.network_detector import Changes, Network
from sslood.views.resolutions import dropout_layers, dropping, stage_modules, watched


def layers(backbone: nn.Module) -> list[nn.Module]:
    """Return every convolution, and every block that is made of convolutions directly, in order.

    The backbone itself is no block.
    """
    blocks = []
    for module in backbone.modules():
        holds = any(isinstance(child, nn.Conv2d) for child in module.children())
        if module is not backbone and (isinstance(module, nn.Conv2d) or holds):
            blocks.append(module)
    return blocks


def open_model(
    model: Model, *, mean: Sequence[float], std: Sequence[float], device: torch.device | str
) -> Network:
    """Return the functions of `model`, which is put into eval mode and takes no gradients."""
    model.eval().requires_grad_(False)
    classifies, turns = model.head is not None, model.rotation is not None

    def maps(x: Tensor, read: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        values: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda module, inputs, output: values.append(read(output)))
            for layer in layers(model.backbone)
        ]
        try:
            logits = model(x)
        finally:
            for hook in hooks:
                hook.remove()
        return values, logits

    found: dict[torch.Size, list[nn.Module]] = {}

    def stages(x: Tensor, changes: Changes) -> tuple[list[Tensor], Tensor]:
        if x.shape[1:] not in found:
            found[x.shape[1:]] = stage_modules(model.backbone, x)
        with watched(found[x.shape[1:]], changes) as values:
            features = model.features(x)
        return values, features

    drops = dropout_layers(model)

    def dropped(x: Tensor, draw: int) -> Tensor:
        with dropping(drops, draw):
            return model(x)

    convolves = any(isinstance(module, nn.Conv2d) for module in model.backbone.modules())
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
        stages=stages if convolves else None,
        head=model.head,
        dropped=dropped if classifies and drops else None,
        device=device,
        dtype=model.dtype,
    )
