"""Networks of your own: `architectures.<file>:<function>`, a function of a file in the folder architectures/.

Only that folder, since DVC watches it (a change adopts the model again), and since a model file names the
function that is called when it is opened: no file may name just any function of this machine.
"""

import hashlib
import importlib
import re
import sys
from pathlib import Path

import torch
from torch import nn

from sslood.core.errors import InputError

FOLDER = "architectures"


def is_own(arch: str) -> bool:
    """Whether `arch` names a function of a file, not one of the built-in forms."""
    return ":" in arch


def _split(arch: str) -> tuple[str, str, str]:
    match = re.fullmatch(rf"({FOLDER}(?:\.[A-Za-z_]\w*)+):([A-Za-z_]\w*)(?::([\w.]+))?", arch)
    if not match:
        raise InputError(
            f"architecture {arch!r}: write {FOLDER}.<file>:<function>, with the function in the folder "
            f"{FOLDER}/, and :<layer> after it if the network ends in a linear layer that is to come off"
        )
    return match[1], match[2], match[3] or ""


def source(arch: str) -> dict[str, str]:
    """Return {path: sha256} of the file that defines `arch`; InputError if it is not there."""
    path = Path(*_split(arch)[0].split(".")).with_suffix(".py")
    if not path.is_file():
        raise InputError(f"architecture {arch!r}: no file {path}; run from the top of the repository")
    return {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()}


def check_source(arch: str, recorded: dict[str, str], where: str | Path) -> None:
    """Raise InputError if the file that defines `arch` is not the one that was `recorded`."""
    for path in {*source(arch).items()} ^ {*recorded.items()}:
        raise InputError(
            f"{where}: {path[0]} has changed since the model was adopted; run `dvc repro adopt` again"
        )


def own_network(arch: str) -> nn.Module:
    """Call the function of `arch` and return its network: images [N, C, H, W] -> features [N, D].

    A linear layer that `arch` names is replaced by nothing, so that what it read comes out. Raises InputError
    if file, function or layer are not there, or no network comes back.
    """
    name, function, layer = _split(arch)
    source(arch)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    make = getattr(importlib.import_module(name), function, None)
    if not callable(make):
        raise InputError(f"architecture {arch!r}: {name} has no function {function!r}")
    network = make()
    if not isinstance(network, nn.Module):
        raise InputError(f"architecture {arch!r}: the function returned {type(network).__name__}, no network")
    if layer:
        _take_off(network, layer, arch)
    return network


def _take_off(network: nn.Module, layer: str, arch: str) -> None:
    parent, _, child = layer.rpartition(".")
    modules = dict(network.named_modules())
    if not isinstance(modules.get(layer), nn.Linear):
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        raise InputError(
            f"architecture {arch!r}: {layer!r} is no linear layer; there are: {', '.join(linear) or 'none'}"
        )
    setattr(modules[parent], child, nn.Identity())


@torch.no_grad()
def feature_dim(network: nn.Module, arch: str, *, channels: int, size: int) -> int:
    """Return the width of the features of two blank images; InputError unless they are [2, D]."""
    network.eval()
    try:
        features = network(torch.zeros(2, channels, size, size))
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        raise InputError(
            f"architecture {arch!r} takes no images of {channels}x{size}x{size}: {text}"
        ) from None
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise InputError(f"architecture {arch!r}: gives {shape}, but features must be one row an image")
    return features.shape[1]
