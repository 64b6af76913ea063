"""torchvision's classifiers without their last layer: torchvision:NAME, or NAME.TAG for other weights."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision import models

from sslood.core.errors import InputError, as_line
from sslood.nets.external.opening import Recipe, split
from sslood.nets.networks.model import as_state


def recipe(arch: str, size: int | None) -> Recipe:
    """Return what torchvision says of `arch`; InputError for an unknown name or tag, or a wrong size."""
    name, tag = _name(arch)
    offered = models.get_model_weights(name)
    if tag and tag not in offered.__members__:
        raise InputError(f"backbone {arch!r}: no weights {tag}; there are {', '.join(offered.__members__)}")
    weights = offered[tag] if tag else offered.DEFAULT
    way = weights.transforms()
    (pixels,), (side,) = way.crop_size, way.resize_size
    if size not in (None, pixels) and name.startswith("vit_"):
        raise InputError(
            f"backbone {arch!r}: takes images of {pixels} pixels only, not {size}; leave size out"
        )
    published = re.search(r"-([0-9a-f]{8,})\.", weights.url)
    return Recipe(
        size=size or pixels,
        mean=list(way.mean),
        std=list(way.std),
        record={"library": f"torchvision {torchvision.__version__.partition('+')[0]}", "size": pixels},
        weights=(weights.url,),
        filter=way.interpolation.value,
        resize_to=round(side * (size or pixels) / pixels),
        sha256=published[1] if published else "",
        licence="BSD-3-Clause",
    )


def load(arch: str, found: Recipe, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return the network with the weights `state`; InputError, naming `where`, if they do not fit."""
    network = _classifier(arch, found.record)
    own = network.state_dict()
    counters = {key: value for key, value in own.items() if key.endswith("_tracked")}
    try:
        network.load_state_dict(
            as_state(own, counters | {_modern(key): value for key, value in state.items()})
        )
    except RuntimeError as error:
        raise InputError(f"{where}: the weights do not fit {arch!r} ({as_line(error)})") from None
    return _headless(network, arch)


def build(arch: str, record: Mapping[str, Any], most: int) -> nn.Module:
    """Return the network of `arch` without its weights."""
    return _headless(_classifier(arch, record), arch)


def _name(arch: str) -> tuple[str, str]:
    _, whole, pooling = split(arch)
    if pooling:
        raise InputError(f"backbone {arch!r}: torchvision's networks pool as they do; leave :{pooling} out")
    name, _, tag = whole.partition(".")
    known = models.list_models(module=models)
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"backbone {arch!r}: torchvision has no such classifier{hint}; it has {', '.join(known)}"
        )
    return name, tag


def _classifier(arch: str, record: Mapping[str, Any]) -> nn.Module:
    name = _name(arch)[0]
    arguments: dict[str, Any] = {"image_size": int(record["size"])} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):  # published weights want other means, which the network makes
        arguments = {"aux_logits": True, "init_weights": False, "transform_input": True}
    return models.get_model(name, weights=None, **arguments)


def _modern(key: str) -> str:
    """Return a key as modules have it today: files of old DenseNets have norm.1 for norm1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def _headless(network: nn.Module, arch: str) -> nn.Module:
    """Replace the last linear layer by Identity, so that the network returns what it reads."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    last = [name for name in linear if "aux" not in name.lower()][-1:]
    if not last:
        raise InputError(f"backbone {arch!r}: does not end in a linear layer, so its features are not known")
    parent, _, child = last[0].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network
