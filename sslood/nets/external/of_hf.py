"""Image towers of Hugging Face's transformers: hf:REPOSITORY, or hf:FOLDER with what a repository holds.

What the configuration says is kept, so that the network is built again without its repository. Of a model of
images and texts (CLIP, SigLIP) it is the image tower; CLIP's features are its projections, which texts share.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection

from sslood.core.errors import InputError, as_line
from sslood.data.sets.images import Square
from sslood.nets.external.hub import hub_file
from sslood.nets.external.opening import Outside, Recipe, split

TYPES = (  # of towers whose features are a function of the image alone, each tried
    *("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext", "clip_vision_model"),
    *("siglip_vision_model", "vit", "deit", "beit", "ijepa", "vit_msn", "data2vec-vision", "swin", "swinv2"),
    *("convnext", "convnextv2", "resnet"),
)
_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_NOT_KEPT = (
    "auto_map",
    "quantization_config",
    "dtype",
    "torch_dtype",
    "architectures",
    "transformers_version",
)


def recipe(arch: str, size: int | None) -> Recipe:
    """Return what the repository says of `arch`; InputError for a model that is no image tower of TYPES."""
    name = split(arch)[1]
    config = _json(name, "config.json", arch)
    kind = _TOWERS.get(config.get("model_type", ""), config.get("model_type", ""))
    tower = (
        config.get("vision_config", {}) if kind in _TOWERS.values() and "vision_config" in config else config
    )
    if kind not in TYPES:
        raise InputError(
            f"backbone {arch!r}: a model of type {kind!r}; those that work are {', '.join(TYPES)}"
        )
    kept = {key: value for key, value in tower.items() if key[0] != "_" and key not in _NOT_KEPT}
    record: dict[str, Any] = {
        "library": f"transformers {transformers.__version__}",
        "config": {**kept, "model_type": kind},
        "projects": kind == "clip_vision_model" and config.get("model_type") == "clip",
    }
    if record["projects"] and "projection_dim" in config:
        record["config"]["projection_dim"] = config["projection_dim"]
    folder = Path(name).is_dir()
    places = tuple(str(Path(name) / file) if folder else f"hub:{name}:{file}" for file in _FILES)
    return Recipe(record=record, weights=places, **_preprocessing(name, size, arch))


def _json(name: str, file: str, arch: str) -> dict[str, Any]:
    path = Path(name) / file if Path(name).is_dir() else hub_file(name, file, arch)
    if path is None or not path.is_file():
        raise InputError(f"backbone {arch!r}: {name} has no {file}, so it is not known how to use it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"backbone {arch!r}: {path} is not valid JSON ({as_line(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"backbone {arch!r}: {path} holds no keys and values")
    return content


def _preprocessing(name: str, size: int | None, arch: str) -> dict[str, Any]:
    """Return the fields of a Recipe that preprocessor_config.json decides, for another size in proportion."""
    said = _json(name, "preprocessor_config.json", arch)
    whole: Any = said.get("size")
    crop, cuts = said.get("crop_size"), bool(said.get("do_center_crop"))
    share = said.get("crop_pct")
    square: Square = "crop" if cuts or share is not None else "squash"
    if isinstance(whole, dict):
        square = "crop" if "shortest_edge" in whole else "squash"
        whole = whole.get("shortest_edge") or whole.get("height")
    pixels: Any = (crop.get("height") if isinstance(crop, dict) else crop) if cuts else whole
    if isinstance(share, int | float) and share > 0 and not cuts and isinstance(whole, int):  # ConvNeXt's way
        square, whole = ("crop", int(whole / share)) if whole < 384 else ("squash", whole)
    filter = _FILTERS.get(said.get("resample", 2))
    numbers = [said.get(key) for key in ("image_mean", "image_std")]
    known = isinstance(pixels, int) and isinstance(whole, int) and all(isinstance(n, list) for n in numbers)
    if filter is None or not known or whole < pixels:
        raise InputError(
            f"backbone {arch!r}: its preprocessor_config.json asks for what is not offered (size "
            f"{said.get('size')}, crop {crop}, resample {said.get('resample')}, mean {numbers[0]})"
        )
    return {
        "size": size or pixels,
        "mean": [float(value) for value in said["image_mean"]],
        "std": [float(value) for value in said["image_std"]],
        "square": square,
        "filter": filter,
        "resize_to": None if whole == pixels else round(whole * (size or pixels) / pixels),
    }


def load(arch: str, found: Recipe, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return the network with the weights `state`; InputError, naming `where`, if they do not fit."""
    network = _empty(found.record)
    kind = type(network)
    arguments = {"config": network.config, "state_dict": dict(state), "output_loading_info": True}
    try:
        with _quiet():
            network, said = kind.from_pretrained(None, dtype=torch.float32, **arguments)
            if said["missing_keys"] and all(key.startswith("pooler.") for key in said["missing_keys"]):
                found.record["pooler"] = False  # a classifier's file: no pooler was ever trained
                network, said = kind.from_pretrained(
                    None, dtype=torch.float32, add_pooling_layer=False, **arguments
                )
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where}: the weights do not fit {arch!r} ({as_line(error)})") from None
    wrong = [*said["missing_keys"], *(key for key, *_ in said["mismatched_keys"])]
    if wrong:
        raise InputError(f"{where}: the weights do not fit {arch!r}; missing: {as_line(', '.join(wrong))}")
    return Outside(network.float().eval(), _run, arch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing what it passes over: of CLIP, the whole tower of texts."""
    logging = transformers.utils.logging
    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def build(arch: str, record: Mapping[str, Any], most: int) -> nn.Module:
    """Return the network of `arch` without its weights; ValueError if it needs more than `most` numbers."""
    with torch.device("meta"):  # which takes no memory, whatever sizes a damaged file asks for
        needs = sum(value.numel() for value in _empty(record).state_dict().values())
    if needs > most:
        raise ValueError(f"its configuration needs {needs} weights, the file holds {most}")
    return Outside(_empty(record).float(), _run, arch)


def _empty(record: Mapping[str, Any]) -> Any:
    """Return the tower of a record with weights that are to be replaced. No key of it may load anything."""
    config = dict(record["config"])
    kind = config.pop("model_type", "")
    if kind not in TYPES or any(key[0] == "_" or key in _NOT_KEPT for key in config):
        raise ValueError(f"a configuration of type {kind!r} with keys that are not kept")
    tower = AutoConfig.for_model(kind, **config)
    if record["projects"]:
        return CLIPVisionModelWithProjection(tower)  # type: ignore[arg-type]  # its type is checked
    arguments = {} if record.get("pooler", True) else {"add_pooling_layer": False}
    return AutoModel.from_config(tower, **arguments)


def _run(network: Any, x: Tensor) -> tuple[Tensor, Tensor, int]:
    config, side = network.config, x.shape[-1]
    takes = "interpolate_pos_encoding" in signature(network.forward).parameters
    given = network(x, interpolate_pos_encoding=True) if takes and side != config.image_size else network(x)
    last = given.last_hidden_state
    first = 0 if last.ndim == 4 else _first(config, last.shape[1], side)
    own = given.get("image_embeds", given.get("pooler_output"))
    if own is None:
        own = last[:, 0] if first else last[:, first:].mean(1)
    return torch.flatten(own, 1), last, first


def _first(config: Any, tokens: int, side: int) -> int:
    """Return how many of the tokens are no patches: those for the class, and registers.

    Where no size of a patch says how many patches there are, their number is a square.
    """
    patch, most = getattr(config, "patch_size", 0), 2 + (getattr(config, "num_register_tokens", 0) or 0)
    rest = tokens - (side // patch) ** 2 if isinstance(patch, int) and patch else -1
    return (
        rest
        if 0 <= rest <= most
        else int(isqrt(tokens) ** 2 != tokens and isqrt(tokens - 1) ** 2 == tokens - 1)
    )
