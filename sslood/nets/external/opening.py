"""Networks of other libraries by name: timm:NAME, hf:NAME, torchvision:NAME, with :POOLING after it or not.

The module of_<library>.py opens its networks. It offers `recipe(name, size)`, what the library says of a
pretrained network, `load(name, recipe, state, where)`, the network with these weights, and
`build(name, record, most)`, the network that a file records, for which nothing is ever downloaded. POOLING is
cls (the class token), mean (of the patches) or cls+mean (both, one after the other); without it the features
are those that the library's own pooling gives.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, cat, nn

from sslood.core.errors import InputError
from sslood.data.sets.images import Filter, Square
from sslood.nets.networks.user_architectures import LIBRARIES

POOLINGS = ("cls", "mean", "cls+mean")
_PACKAGES = {"timm": "timm", "hf": "transformers", "torchvision": "torchvision"}


@dataclass(frozen=True)
class Recipe:
    """What a library says of a pretrained network.

    size, mean, std, square, filter, resize_to: its preprocessing, as in a model's card. record: what `build`
    needs beside the name, JSON values. weights: where they are, in the order of preference: an address, or
    "hub:REPOSITORY:FILE" on Hugging Face. sha256: the first digits of theirs, "" where none are published.
    """

    size: int
    mean: list[float]
    std: list[float]
    record: dict[str, Any]
    weights: tuple[str, ...]
    square: Square = "crop"
    filter: Filter = "bilinear"
    resize_to: int | None = None
    sha256: str = ""
    licence: str = "unknown"
    extra: Mapping[str, Any] = field(default_factory=dict)  # for `load` of the same library


class Outside(nn.Module):
    """A network of another library as a backbone: images [N, C, H, W] -> features [N, D].

    run: images -> (the features of the library's own pooling, what the last layer gives: a map [N, D, h, w]
    or tokens [N, L, D], the number of tokens that are no patches).
    """

    def __init__(
        self, network: nn.Module, run: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor, int]], arch: str
    ):
        super().__init__()
        self.network, self.patches = network, nn.Identity()
        self.run, self.arch, self.pooling = run, arch, split(arch)[2]

    def forward(self, x: Tensor) -> Tensor:
        own, last, first = self.run(self.network, x)
        spatial = spatial_map(last, first)
        if spatial is not None:
            spatial = self.patches(spatial)
        if not self.pooling:
            return own
        if ("cls" in self.pooling and (last.ndim != 3 or not first)) or spatial is None:
            raise InputError(f"backbone {self.arch!r}: it has no class token or no map to pool; leave it out")
        parts = {"cls": last[:, 0] if last.ndim == 3 else own, "mean": spatial.mean((2, 3))}
        return cat([parts[part] for part in self.pooling.split("+")], 1)


def spatial_map(last: Tensor, first: int) -> Tensor | None:
    """Tokens [N, first + hw, D] -> the map [N, D, h, w] of a square picture; a map as it is; else None."""
    if last.ndim == 4:
        return last
    side = round((last.shape[1] - first) ** 0.5)
    if side * side != last.shape[1] - first:
        return None
    return last[:, first:].transpose(1, 2).unflatten(2, (side, side))


def split(arch: str) -> tuple[str, str, str]:
    """Return (library, name there, pooling or "") of "timm:NAME" and the like; InputError lists the forms."""
    match = re.fullmatch(rf"({'|'.join(LIBRARIES)}):([^:]+)(?::(.+))?", arch)
    if not match or (match[3] or "mean") not in POOLINGS:
        forms = ", ".join(f"{library}:NAME" for library in LIBRARIES)
        raise InputError(f"backbone {arch!r}: write {forms}, and :{' or :'.join(POOLINGS)} to pool otherwise")
    return match[1], match[2], match[3] or ""


def library_of(arch: str) -> ModuleType:
    """Return the module that opens networks of the library of `arch`; InputError if it is not installed."""
    library = split(arch)[0]
    package = _PACKAGES[library]
    try:
        import_module(package)
    except ImportError as error:
        raise InputError(
            f"backbone {arch!r} needs the package {error.name or package}, which is not installed: "
            f"pip install {package} (or -r requirements-backbones.txt)"
        ) from None
    return import_module(f"sslood.nets.external.of_{library}")


def build(arch: str, record: Mapping[str, Any], most: int) -> nn.Module:
    """Return the network of a card's `arch` and `network`, with weights that are still to be filled in.

    most: how many numbers the file holds for it. Nothing is downloaded. Raises InputError if the library is
    not installed, no longer has the network, or the record asks for something else than such a network.
    """
    try:
        return library_of(arch).build(arch, record, most)
    except InputError:
        raise
    except Exception as error:  # whatever a library raises for a record that it does not understand
        raise InputError(
            f"backbone {arch!r}, written with {record.get('library', 'an unknown version')}: the installed "
            f"version cannot build it ({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"
        ) from None
