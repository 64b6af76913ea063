"""Networks of your own: `architectures.<file>:<function>`, a function of a file in the folder architectures/.

Only that folder: DVC tracks it, so a change adopts the model again; and opening a model file calls the
function that the file names, which must not be just any function of this machine.
"""

import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from sslood.core.errors import InputError, as_line, out_of_memory

FOLDER = "architectures"
LIBRARIES = ("timm", "hf", "torchvision")  # whose networks have names too, see sslood.nets.external


def is_own(arch: str) -> bool:
    """Whether `arch` names a function in architectures/ rather than a backbone of ours or of a library."""
    return ":" in arch and not is_outside(arch)


def is_outside(arch: str) -> bool:
    """Whether `arch` names a network of another library, such as "timm:NAME"."""
    return arch.partition(":")[0] in LIBRARIES and ":" in arch


def _split(arch: str) -> tuple[str, str, str]:
    match = re.fullmatch(rf"({FOLDER}(?:\.[A-Za-z_]\w*)+):([A-Za-z_]\w*)(?::([\w.]+))?", arch)
    if not match:
        raise InputError(
            f"architecture {arch!r}: write {FOLDER}.<file>:<function>, with the file in the folder "
            f"{FOLDER}/, and :<layer> after it to remove a final linear layer"
        )
    return match[1], match[2], match[3] or ""


def source(arch: str) -> dict[str, str]:
    """Return {path: sha256} of the file that defines `arch`; InputError if it does not exist."""
    path = _file(arch)
    return {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()}


def _file(arch: str) -> Path:
    path = Path(*_split(arch)[0].split(".")).with_suffix(".py")
    if not path.is_file():
        raise InputError(
            f"architecture {arch!r}: no file {path} here ({Path.cwd()}); run where the folder {FOLDER}/ lies"
        )
    return path


def check_source(arch: str, recorded: dict[str, str], where: str | Path) -> None:
    """Raise InputError if the file that defines `arch` differs from the `recorded` one."""
    for path in {*source(arch).items()} ^ {*recorded.items()}:
        raise InputError(
            f"{where}: {path[0]} has changed since this file was made; restore it, or make the file again "
            "(`dvc repro adopt`, or `sslood fit`)"
        )


def own_network(arch: str) -> nn.Module:
    """Call the function of `arch` and return its network: images [N, C, H, W] -> features [N, D].

    The named linear layer is replaced by Identity, so the network returns that layer's input. Raises
    InputError if the file, the function or the layer does not exist, or the function returns no network.
    """
    name, function, layer = _split(arch)
    path = _file(arch)
    try:
        make = getattr(_run(name, path), function, None)
        if not callable(make):
            raise InputError(f"architecture {arch!r}: {path} has no function {function!r}")
        network = make()
    except Exception as error:
        if isinstance(error, InputError) or out_of_memory(error):
            raise
        raise InputError(f"architecture {arch!r}: {_place(error, path)}: {_said(error)}") from error
    if not isinstance(network, nn.Module):
        found = type(network).__name__
        raise InputError(f"architecture {arch!r}: the function must return a torch module, found {found}")
    if layer:
        _remove(network, layer, arch)
    return network


def _run(name: str, path: Path) -> ModuleType:
    """Return the module that the file defines: this file, whatever else of its name can be imported.

    Its neighbours can be imported by `architectures.<file>`, as from the top of the repository.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    known = sys.modules.get(name)
    if known is not None and known.__file__ and Path(known.__file__).resolve() == path.resolve():
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(error: Exception, path: Path) -> str:
    """Return the line of the file at which an exception was raised, or passed through."""
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        return f"{path}, line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path.resolve())
    ]
    return f"{path}, line {lines[-1]}" if lines else f"{path}"


def _said(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else error
    return f"{type(error).__name__}: {as_line(text)}"


def _remove(network: nn.Module, layer: str, arch: str) -> None:
    parent, _, child = layer.rpartition(".")
    modules = dict(network.named_modules())
    if not isinstance(modules.get(layer), nn.Linear):
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        raise InputError(
            f"architecture {arch!r}: {layer!r} is not a linear layer; there are: "
            f"{', '.join(linear) or 'none'}"
        )
    setattr(modules[parent], child, nn.Identity())


@torch.no_grad()
def feature_dim(network: nn.Module, arch: str, *, channels: int, size: int) -> int:
    """Return the width of the features of two blank images; InputError unless they are [2, D]."""
    network.eval()
    try:
        features = network(torch.zeros(2, channels, size, size))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        if isinstance(error, InputError) or out_of_memory(error):
            raise
        text = as_line(error)
        raise InputError(
            f"architecture {arch!r} does not accept images of {channels}x{size}x{size}: {text}"
        ) from None
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise InputError(f"architecture {arch!r}: returns {shape}, but features must be one row per image")
    return features.shape[1]
