"""timm's networks (Wightman, "PyTorch Image Models", doi:10.5281/zenodo.4414861) by its names: timm:NAME.

Pooling, prefix tokens and preprocessing are those of the pretrained configuration that the name stands for.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from math import floor
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from sslood.core.errors import InputError, as_line
from sslood.data.sets.images import Square
from sslood.nets.external.opening import Outside, Recipe, split

_SQUARES: dict[str, Square] = {"center": "crop", "squash": "squash", "border": "pad"}
_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


def recipe(arch: str, size: int | None) -> Recipe:
    """Return what timm says of `arch`; InputError for an unknown name, or an odd preparation."""
    name = _name(arch)
    config = get_pretrained_cfg(name)
    if config is None:
        raise InputError(f"backbone {arch!r}: timm does not say how its pictures are prepared; name another")
    pixels = size or config.input_size[-1]
    if config.interpolation not in ("bilinear", "bicubic"):
        raise InputError(
            f"backbone {arch!r}: its pictures are resized by {config.interpolation}, not offered"
        )
    crop = config.crop_pct if config.crop_mode in ("center", "squash") else 1.0
    arguments = {"img_size": pixels} if config.fixed_input_size and pixels != config.input_size[-1] else {}
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    places = [f"hub:{config.hf_hub_id}:{file}" for file in files] if config.hf_hub_id else []
    published = re.search(r"-([0-9a-f]{8,})\.", str(config.url or ""))
    return Recipe(
        size=pixels,
        mean=list(config.mean),
        std=list(config.std),
        record={"library": f"timm {timm.__version__}", "arguments": arguments},
        weights=(*places, *([str(config.url)] if published else [])),
        square=_SQUARES[config.crop_mode],
        filter="bicubic" if config.interpolation == "bicubic" else "bilinear",
        resize_to=floor(pixels / crop) if crop < 1 else None,
        licence=config.license or "unknown",
    )


def load(arch: str, found: Recipe, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return the network with the weights `state`; InputError, naming `where`, if they do not fit.

    timm renames and resamples what it loads, and passes over what is missing. So the network is made twice
    from the same random numbers: what is still random where weights were loaded was not in the file.
    """
    arguments = {"num_classes": 0, **found.record["arguments"]}
    given = {"state_dict": dict(state), "custom_load": False}
    with _quiet():
        start = _seeded(arch, pretrained=False, **arguments).state_dict()
        try:
            network = _seeded(arch, pretrained=True, pretrained_cfg_overlay=given, **arguments)
        except (RuntimeError, KeyError, ValueError, AssertionError, TypeError) as error:
            raise InputError(f"{where}: the weights do not fit {arch!r} ({as_line(error)})") from None
    other = {key: value for key, value in network.named_parameters() if key not in state}
    missing = [key for key, value in other.items() if torch.equal(value, start[key]) and _varies(value)]
    if missing:
        names = as_line(", ".join(missing))
        raise InputError(f"{where}: the weights do not fit {arch!r}; {len(missing)} missing: {names}")
    return Outside(network, _run, arch)


def _seeded(arch: str, **arguments: Any) -> nn.Module:
    """Return timm's network, its first weights always the same; the caller keeps the global generator."""
    torch.default_generator.manual_seed(0)
    return timm.create_model(_name(arch), **arguments)


def _varies(value: Tensor) -> bool:
    """Whether not all numbers are equal, as they are in what is not random at the start."""
    return value.numel() > 1 and bool(value.min() < value.max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm from listing what it passes over."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def build(arch: str, record: Mapping[str, Any], most: int) -> nn.Module:
    """Return the network of `arch` without its weights."""
    size = record["arguments"].get("img_size")
    arguments: dict[str, Any] = {} if size is None else {"img_size": int(size)}
    return Outside(timm.create_model(_name(arch), pretrained=False, num_classes=0, **arguments), _run, arch)


def _name(arch: str) -> str:
    """Return timm's name; InputError unless it is one of the installed version, not a place to load from."""
    name = split(arch)[1]
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)?", name) or not timm.is_model(name):
        close = get_close_matches(name, timm.list_pretrained() + timm.list_models(), n=3)
        raise InputError(
            f"backbone {arch!r}: timm {timm.__version__} has no such model"
            f"{f' (did you mean {close[0]!r}?)' if close else ''}; timm.list_pretrained() lists them"
        )
    return name


def _run(network: Any, x: Tensor) -> tuple[Tensor, Tensor, int]:
    last = network.forward_features(x)
    own = network.forward_head(last, pre_logits=True)
    if last.ndim == 4 and getattr(network, "output_fmt", "NCHW") == "NHWC":
        last = last.permute(0, 3, 1, 2)
    return torch.flatten(own, 1), last, getattr(network, "num_prefix_tokens", 0)
