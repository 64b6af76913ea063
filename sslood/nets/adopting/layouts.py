"""Where publishers put the weights in a checkpoint, and what they call them: rules as data, layouts.yaml.

A layout is applied in this order: `state` names the part of the file that holds the weights; each prefix of
`strip` is removed from the keys that have it; keys that then start with one of `drop` are left out; `rename`
rewrites the others, each rule "regular expression -> replacement" once; `head` is the linear classifier
among the resulting keys.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from sslood.core.errors import InputError, as_line, known
from sslood.core.settings import strict

_FILE = Path(__file__).with_name("layouts.yaml")
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """One publisher's layout. source: where it is documented; note: what else to know.

    prefix: what stands before each name in a new checkpoint, where `strip` holds alternatives.
    """

    source: str
    state: str = ""
    strip: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    head: str = ""
    note: str = ""
    prefix: str = ""


def load_layouts(path: Path = _FILE) -> dict[str, Layout]:
    """Return name -> Layout of layouts.yaml."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: strict(Layout, values, f"{path.name}:{name}") for name, values in content.items()}


def find_layout(name: str) -> Layout:
    """Return the layout `name`; InputError lists the known ones."""
    layouts = load_layouts()
    return layouts[known(name, "layout", layouts)]


def weights_of(checkpoint: Any, layout: Layout, where: str) -> State:
    """Return the weights of a checkpoint under the names of the architecture.

    Raises InputError if the file lacks `state`, holds anything but tensors there, a rule is not a regular
    expression, or two keys get the same name.
    """
    weights: State = {}
    origin: dict[str, str] = {}
    for key, value in _state(checkpoint, layout.state, where).items():
        if not isinstance(key, str):
            raise InputError(
                f"{where}: {as_line(repr(key), 60)} is no name of a weight; `state` must name the weights"
            )
        name = _renamed(_stripped(key, layout.strip), layout, where)
        if name is None:
            continue
        if name in weights:
            raise InputError(
                f"{where}: {origin[name]!r} and {key!r} both become {name!r}; correct strip and drop"
            )
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{where}: {key!r} is of type {type(value).__name__}, not a tensor; "
                "`state` must name the weights"
            )
        if odd := _odd(value):
            raise InputError(f"{where}: {key!r} is {odd}; save plain dense tensors of numbers")
        weights[name], origin[name] = value, key
    return weights


_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8}
_DTYPES |= {torch.int64, torch.int32, torch.int16, torch.int8}


def _odd(value: torch.Tensor) -> str:
    """Return what keeps a tensor from being a weight, "" if nothing does."""
    if value.is_meta:
        return "a meta tensor, which has no values"
    if value.is_nested or value.layout is not torch.strided:
        return "a sparse or nested tensor"
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"a tensor of the kind {type(value).__name__}"
    return "" if value.dtype in _DTYPES else f"of dtype {value.dtype}"


def _state(checkpoint: Any, path: str, where: str) -> Mapping[str, Any]:
    for part in filter(None, path.split(".")):
        if not isinstance(checkpoint, Mapping) or part not in checkpoint:
            names = list(checkpoint)[:8] if isinstance(checkpoint, Mapping) else []
            keys = as_line(", ".join(map(str, names)) or "no keys")
            raise InputError(f"{where}: state {path!r} is not in the file, which holds {keys}")
        checkpoint = checkpoint[part]
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"{where}: holds {type(checkpoint).__name__} at state {path!r}, not named weights")
    return checkpoint


def _stripped(key: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    return key


def _renamed(key: str, layout: Layout, where: str) -> str | None:
    """Return the new name, None for a dropped key."""
    if key.startswith(layout.drop):
        return None
    for rule in layout.rename:
        old, arrow, new = rule.partition(" -> ")
        try:
            if not arrow:
                raise re.error("it has no ' -> '")
            key = re.sub(old, new, key)
        except re.error as error:
            raise InputError(
                f"{where}: rename rule {rule!r}: {error}; write 'expression -> replacement'"
            ) from None
    return key
