"""Command line options made from the settings of detectors, so that a setting is written down once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

import click

from stages.core.errors import known


def setting_options(settings: type, prefix: str = "") -> Callable:
    """Return a decorator that adds one required option for each field of a settings dataclass.

    Field k of prefix "knn" is the option --knn.k, the key posthoc.knn.k of params.yaml; a bool is a
    pair --x / --no-x, a tuple an option that may be repeated. `read_settings` takes the values back.
    """

    def decorate(function: Callable) -> Callable:
        for field in reversed(fields(settings)):
            name = f"{prefix}.{field.name}" if prefix else field.name
            flags = f"--{name}/--no-{name}" if field.type is bool else f"--{name}"
            function = click.option(
                flags,
                _variable(prefix, field.name),
                required=True,
                type=_type(field.type),
                multiple=get_origin(field.type) is tuple,
            )(function)
        return function

    return decorate


def registry_options(kinds: Mapping[str, Any]) -> Callable:
    """Return a decorator that adds the options of every detector of a registry: --<detector>.<setting>."""

    def decorate(function: Callable) -> Callable:
        for name, kind in reversed(kinds.items()):
            function = setting_options(kind.Settings, name)(function)
        return function

    return decorate


def read_settings(settings: type, values: dict[str, Any], prefix: str = "") -> Any:
    """Return the settings from a script's option values; InputError for a value out of range."""
    return settings(**{field.name: values[_variable(prefix, field.name)] for field in fields(settings)})


def read_detectors(
    registry: Mapping[str, Any], names: Sequence[str], values: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return name -> (class, its settings from a script's option values) of the chosen detectors, in order.

    Raises InputError for a name that the registry does not hold, or a value out of range.
    """
    kinds = {name: registry[known(name, "detector", registry)] for name in names}
    return {name: (kind, read_settings(kind.Settings, values, name)) for name, kind in kinds.items()}


def _variable(prefix: str, name: str) -> str:
    return f"{prefix}_{name}" if prefix else name


def _type(kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return get_args(kind)[0]
    return click.Choice(get_args(kind)) if get_origin(kind) is Literal else kind
