"""A backbone as its stages: the last map of each resolution, read or replaced on the way, and its dropout."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from sslood.core.seeding import numpy_stream
from sslood.ood.kit.network_detector import Changes

CHANNELS = nn.Dropout1d, nn.Dropout2d, nn.Dropout3d  # they drop whole channels


def stage_modules(backbone: nn.Module, x: Tensor) -> list[nn.Module]:
    """Return the modules whose outputs for images x are the last map of each resolution, in order.

    Only modules that are or hold a convolution count, and none within a block whose own map has another
    resolution: the first half of a strided block ends no stage. The backbone itself is none.
    """
    sizes: dict[str, torch.Size] = {}
    modules = {
        name: module
        for name, module in backbone.named_modules()
        if name and any(isinstance(part, nn.Conv2d) for part in module.modules())
    }

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            sizes.pop(name, None)  # in the order of their last output
            sizes[name] = output.shape[2:]

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            backbone(x[:1])
    finally:
        for hook in hooks:
            hook.remove()

    def is_block(name: str) -> bool:
        """Whether a module halves the map at most once; a sequence is its parts, whatever they do."""
        if name not in sizes or isinstance(modules[name], nn.Sequential):
            return False
        inner = {size for key, size in sizes.items() if key.startswith(f"{name}.")}
        # a map of one pixel within a larger one is that of squeeze-and-excitation, which goes no further
        return len(inner - {torch.Size((1, 1))} | {sizes[name]}) <= 2

    blocks = [name for name in sizes if is_block(name)]
    last: dict[torch.Size, str] = {}
    for name, size in sizes.items():
        if all(sizes[block] == size for block in blocks if name.startswith(f"{block}.")):
            last.pop(size, None)
            last[size] = name
    return [modules[name] for name in last.values()]


@contextmanager
def watched(modules: Sequence[nn.Module], changes: Changes) -> Iterator[list[Tensor]]:
    """Context in which the outputs of modules, changed by changes[place from the end], are collected."""
    values: list[Tensor] = []

    def collect(place: int, output: Tensor) -> Tensor:
        output = changes[place](output) if place in changes else output
        values.append(output)
        return output

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, place=place: collect(place, output))
        for place, module in enumerate(modules, -len(modules))
    ]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def dropout_layers(network: nn.Module) -> list[_DropoutNd]:
    """Return the dropout layers of a network that drop anything, in order."""
    drops = (nn.Dropout, *CHANNELS)  # torch's alpha dropout does not set values to 0, and is none here
    return [module for module in network.modules() if isinstance(module, drops) and module.p > 0]


@contextmanager
def dropping(layers: Sequence[_DropoutNd], draw: int) -> Iterator[None]:
    """Context in which dropout layers drop as in training, and the same of all images.

    What is dropped depends on `draw`, the place of the layer and the shape of its input alone, so that an
    image's output depends on no other image. Layers that drop whole channels do so.
    """

    def drop(place: int, layer: _DropoutNd, inputs: tuple[Tensor, ...]) -> Tensor:
        x = inputs[0]
        whole = x.ndim > 2 and isinstance(layer, CHANNELS)
        shape = (x.shape[1], *(1 for _ in x.shape[2:])) if whole else x.shape[1:]
        kept = numpy_stream(draw, "dropout", place).random(tuple(shape)) >= layer.p
        return x * (torch.from_numpy(kept).to(x) / (1 - layer.p))

    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output, place=place: drop(place, layer, inputs))
        for place, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
