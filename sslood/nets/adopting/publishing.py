"""The way back of layouts.py: weights under our names become a checkpoint as a publisher writes it.

A checkpoint holds what its layout reads: the backbone, and the classifier where the layout has one. What a
publisher keeps beside it (projector, optimiser, epoch) is not made up.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from sslood.core.errors import InputError
from sslood.nets.adopting.layouts import Layout, State, weights_of

_PLAIN = re.compile(r"\^?(?:\w|\\\.)+")  # a rule of names alone, which can be turned round


def checkpoint_of(weights: Mapping[str, torch.Tensor], layout: Layout, where: str) -> Any:
    """Return the checkpoint from which `weights_of` reads these weights under this layout.

    weights: of the backbone under its own names, and of the classifier under `layout.head`. The prefixes of
    `strip` stand in their order before each name (before those of the classifier the first alone), or
    `layout.prefix` does, where these are alternatives; the rules of `rename` are applied backwards. Raises
    InputError, beginning with `where`, if a rule cannot be turned round, or if the layout would read
    something else.
    """
    prefix = layout.prefix or "".join(layout.strip)
    of_head = layout.prefix or "".join(layout.strip[:1])
    content: Any = {}
    for name, value in weights.items():
        is_head = bool(layout.head) and name.startswith(f"{layout.head}.")
        content[(of_head if is_head else prefix) + _original(name, layout, where)] = value
    for part in reversed([part for part in layout.state.split(".") if part]):
        content = {part: content}
    try:
        found: State = weights_of(content, layout, where)
    except InputError:
        found = {}
    if found.keys() != weights.keys() or any(found[name] is not value for name, value in weights.items()):
        lost = sorted(set(weights) - set(found)) or sorted(weights)
        raise InputError(f"{where}: this layout does not read {lost[0]!r} back; choose another")
    return content


def _original(name: str, layout: Layout, where: str) -> str:
    """Return what the publisher calls a weight, before the prefixes."""
    for rule in reversed(layout.rename):
        old, _, new = rule.partition(" -> ")
        if not _PLAIN.fullmatch(old) or "\\" in new:
            raise InputError(f"{where}: rename rule {rule!r} cannot be turned round; choose another layout")
        plain = old.removeprefix("^").replace("\\.", ".")
        if not old.startswith("^"):
            name = name.replace(new, plain)
        elif name.startswith(new):
            name = plain + name.removeprefix(new)
    return name
