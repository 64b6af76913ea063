"""Pretrained backbones that have a name: presets.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml

from sslood.core.settings import Settings, above, at_least, strict
from sslood.data.sets.images import Filter, Square

_FILE = Path(__file__).with_name("presets.yaml")
DEFAULT = "efficientnet-lite0"


@dataclass(frozen=True)
class Preset(Settings):
    """One pretrained backbone."""

    about: Annotated[str, "what to know of it"]
    network: Annotated[str, "full name of a backbone of ours, or timm:, hf:, torchvision: and the name there"]
    licence: Annotated[str, "of the weights"]
    size: Annotated[int, at_least(1), "pixels: height and width of its images"]
    mean: Annotated[tuple[float, ...], "per channel, of pixels in [0, 1]"]
    std: Annotated[tuple[float, ...], above(0), "per channel, of pixels in [0, 1]"]
    filter: Annotated[Filter, "of the resizing"]
    resize_to: Annotated[int | None, at_least(1), "shorter side before the centre is cut out"] = None
    square: Annotated[Square, "way of a picture to a square"] = "crop"
    weights: Annotated[
        str, "address, or package:FOLDER/FILE of an installed package; empty: where the library has them"
    ] = ""
    sha256: Annotated[str, "of the file of weights, or its first digits (at least 8)"] = ""
    layout: Annotated[str, "of the weights of a backbone of ours, see layouts.yaml"] = ""


def load_presets(path: Path = _FILE) -> dict[str, Preset]:
    """Return name -> Preset of presets.yaml."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: strict(Preset, values, f"{path.name}:{name}") for name, values in content.items()}
