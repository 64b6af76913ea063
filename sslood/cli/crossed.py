"""Sections of the params that are right each by itself, but not together: found before anything runs.

The stages say the same when they meet it, which may be hours later.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sslood.core.errors import InputError

Placed = Mapping[str, tuple[str, Any]]  # key -> FILE:KEY and value
AUGMENT, SECOND, ALTERNATE = "augment", "second", "alternate"


def placed(place: str, section: Mapping[str, Any]) -> Placed:
    """Return the values of a section with their places."""
    return {key: (f"{place}.{key}", value) for key, value in section.items()}


def check_training(settings: Placed, recipe: Placed, own: Placed, size: tuple[str, Any]) -> None:
    """Raise InputError, naming both places, if the views of a training do not suit its settings or images.

    own: a method's or objective's section, whose keys, and those under `augment`, replace the others. size:
    of the images, in pixels.
    """
    alternate = {**settings, **own}.get(ALTERNATE, ("", False))
    for view in _views(recipe, own):
        flip, pad = view.get("flip", ("", 0)), view.get("pad", ("", 0))
        if alternate[1] and flip[1]:
            raise InputError(
                f"{alternate[0]} mirrors every image in turn, and {flip[0]} ({flip[1]:g}) mirrors at random; "
                "set one of them to false, or 0"
            )
        if pad[1] and type(size[1]) is int and pad[1] >= size[1]:  # of another type: another stage says so
            raise InputError(
                f"{pad[0]} is {pad[1]}, a shift that can leave nothing of images of {size[1]} pixels "
                f"({size[0]}); lower it"
            )


def _views(recipe: Placed, own: Placed) -> Iterator[Placed]:
    """Yield what each view of an image goes through."""
    first = dict(recipe)
    if AUGMENT in own:
        first.pop(SECOND, None)
        first |= placed(*own[AUGMENT])
    second = first.pop(SECOND, None)
    yield first
    if second is not None:
        yield {**first, **placed(*second)}
