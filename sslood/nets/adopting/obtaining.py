"""The weights of a pretrained backbone: from a package, a file, an address with its checksum, or a cache."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sslood.core.errors import InputError
from sslood.nets.adopting.layouts import State
from sslood.nets.adopting.weights import file_name, is_address, locate_weights, read_checkpoint

_INSIDE = ("state_dict", "model", "teacher", "model_ema", "state_dict_ema")  # where training scripts put them
_DIGITS = r"[0-9a-f]{8,64}"


@dataclass(frozen=True)
class Weights:
    """state: name -> tensor, as the file has them. place: where they were. sha256: of the file."""

    state: State
    place: str
    sha256: str


def obtain(places: Sequence[str], sha256: str, backbone: str) -> Weights:
    """Return the weights from the first of `places` that has them; what is on this machine comes first.

    A place is a path, an address, "hub:REPOSITORY:FILE", or "package:FOLDER/FILE" of an installed package.
    sha256: its first digits, "" if not known. Raises InputError if no place has them, or the checksum is
    another.
    """
    for place in sorted(places, key=lambda place: not _is_here(place)):
        path = _located(place, sha256, backbone)
        if path is not None:
            state, digest = _read(path, place, backbone)
            if not digest.startswith(sha256):
                raise InputError(f"{path}: its sha256 is {digest}, published is {sha256}; it is not used")
            return Weights(state, place, digest)
    where = f"not at {', '.join(places)}" if places else "not published"
    raise InputError(f"backbone {backbone!r}: its weights are {where}; give a file of them")


def own_place(text: str) -> tuple[str, str]:
    """Return (place, first digits of its sha256 or "") of what a user wrote: FILE or ADDRESS, with #sha256=….

    Raises InputError for an address without a checksum, and a checksum that is none.
    """
    place, mark, sha256 = text.partition("#sha256=")
    if (mark or is_address(place)) and not re.fullmatch(_DIGITS, sha256):
        raise InputError(
            f"weights {text!r}: write {place}#sha256= and at least 8 hexadecimal digits of its checksum, as "
            "`sha256sum FILE` prints it"
        )
    return place, sha256


def packaged(place: str) -> Path | None:
    """Return the file of "package:FOLDER/FILE", found without importing the package; None if missing."""
    module, _, below = place.removeprefix("package:").partition("/")
    spec = find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((Path(folder) / below for folder in folders if (Path(folder) / below).is_file()), None)


def plain_state(checkpoint: Any, where: str) -> State:
    """Return the named tensors of a checkpoint, also where a training script has put them inside.

    Raises InputError if it holds none.
    """
    for key in _INSIDE:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise InputError(f"{where}: holds no named weights; save the state dict of the network")
    state = {str(key).removeprefix("module."): value for key, value in checkpoint.items()}
    if odd := [key for key, value in state.items() if type(value) not in (torch.Tensor, torch.nn.Parameter)]:
        raise InputError(f"{where}: {odd[0]!r} is no tensor; save the state dict of the network alone")
    return state


def _is_here(place: str) -> bool:
    """Whether a place is on this machine, so that no network is needed."""
    if place.startswith("hub:"):
        return _hub().cached_file(*place.split(":")[1:]) is not None
    return not is_address(place) or _torch_cached(place) is not None


def _located(place: str, sha256: str, backbone: str) -> Path | None:
    """Return the file at a place, None if another place may have it."""
    if place.startswith("hub:"):
        return _hub().hub_file(*place.split(":")[1:], backbone)
    if place.startswith("package:"):
        return packaged(place)
    if is_address(place):
        return _torch_cached(place) or locate_weights(place, sha256)
    return Path(place) if Path(place).is_file() else None


def _torch_cached(address: str) -> Path | None:
    """Return what torch.hub has downloaded from an address before."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name(address)
    return path if path.is_file() else None


def _hub() -> Any:
    from sslood.nets.external import hub  # its package comes with timm and transformers

    return hub


def _listed(path: Path) -> list[str]:
    """Return the names of the files that an index lists; they lie beside it, wherever else it points."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({Path(name).name for name in listed})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path}: is no index of weights: its 'weight_map' must name a file for each; fetch it again"
        ) from None


def _read(path: Path, place: str, backbone: str) -> tuple[State, str]:
    """Return (weights, sha256 of the file, or of the files that an index lists one after the other)."""
    paths = [path]
    if path.name.endswith(".index.json"):
        names = _listed(path)
        beside = place.rpartition(path.name)[0]
        found = [_located(f"{beside}{name}", "", backbone) for name in names]
        paths = [one for one in found if one is not None]
        if len(paths) < len(names):
            raise InputError(
                f"{path}: lists {len(names)} files, of which {len(paths)} are here; fetch the others"
            )
    total, state = hashlib.sha256(), State()
    for one in paths:
        with open(one, "rb") as file:
            while chunk := file.read(1 << 20):
                total.update(chunk)
        state |= plain_state(read_checkpoint(one), str(one))
    return state, total.hexdigest()
