"""Command-line options made from settings, so that a setting and its help are written once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from sslood.cli.sections import Names, SectionOption, SettingOption, item_options
from sslood.core.errors import known
from sslood.core.settings import notes_of, strict, type_of, typed


class _Value(click.ParamType):
    """An option's value of any type that settings know, e.g. int | Literal["auto"]."""

    def __init__(self, kind: Any):
        self.kind = kind
        self.name = "|".join(
            "|".join(map(str, get_args(one))) if get_origin(one) is Literal else one.__name__
            for one in get_args(kind)
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        for kind in get_args(self.kind):
            try:
                return typed(kind, kind(value) if kind in (int, float) else value, str(param and param.name))
            except ValueError:  # InputError among them
                continue
        self.fail(f"{value!r} is none of {self.name}", param, ctx)


def setting_options(settings: type, prefix: str = "", optional: Sequence[str] = ()) -> Callable:
    """Return a decorator that adds one required option for each field of a settings dataclass.

    Field k of prefix "knn" is the option --knn.k, the key posthoc.knn.k of params.yaml; a bool is a
    pair --x / --no-x, a tuple an option that may be repeated, and left out if its default is empty.
    optional: fields that older params lack; their defaults count. `read_settings` takes the values back.
    """

    def decorate(function: Callable) -> Callable:
        for field in reversed(fields(settings)):
            name = f"{prefix}.{field.name}" if prefix else field.name
            kind = type_of(settings, field.name)
            function = click.option(
                f"--{name}/--no-{name}" if kind is bool else f"--{name}",
                _variable(prefix, field.name),
                cls=SettingOption,
                settings=settings,
                field=field.name,
                kind=kind,
                # of an empty list a command shows nothing
                required=field.default != () and field.name not in optional,
                **({"default": field.default} if field.name in optional else {}),
                type=_click_type(kind),
                multiple=get_origin(kind) is tuple,
                help=_help(settings, field.name),
            )(function)
        return function

    return decorate


def section_option(
    name: str, what: str, check: Callable, checks_settings: bool = False, required: bool = True
) -> Callable:
    """Return a decorator that adds an option --name FILE:KEY; `check` reads it, see `SectionOption`."""
    about = {"help": f"FILE:KEY of {what}.", "check": check, "checks_settings": checks_settings}
    return click.option(f"--{name}", required=required, cls=SectionOption, **about)


def training_options(settings: type, check_recipe: Callable, optional: Sequence[str] = ()) -> Callable:
    """Return a decorator that adds the options of every training: ID set, recipe, settings, its files.

    check_recipe(FILE:KEY) raises InputError for a section that is no recipe of augmentation. optional: fields
    that older params lack.
    """
    before = [
        click.option("--id_set", required=True, help="ID set file."),
        section_option("recipe", "the augmentation's section", lambda where, _: check_recipe(where)),
    ]
    after = [
        click.option("--out", required=True, help="Model file to write."),
        click.option("--out_curves", required=True, help="CSV of curves to write."),
    ]

    def decorate(function: Callable) -> Callable:
        for option in reversed(
            [item_options("id"), *before, setting_options(settings, optional=optional), *after]
        ):
            function = option(function)
        return function

    return decorate


def _help(settings: type, name: str) -> str:
    limits, text = notes_of(settings, name)
    return f"{text} ({limits})" if limits and text else text


def registry_options(kinds: Mapping[str, Any]) -> Callable:
    """Return a decorator that adds --detectors, and every setting of a registry's: --<detector>.<setting>."""
    say = "Detector to run; may be repeated."

    def decorate(function: Callable) -> Callable:
        names = click.option("--detectors", required=True, multiple=True, type=Names(list(kinds)), help=say)
        function = names(function)
        for name, kind in reversed(list(kinds.items())):
            function = setting_options(kind.Settings, name)(function)
        return function

    return decorate


def read_settings(settings: type, values: Mapping[str, Any], prefix: str = "", where: str = "") -> Any:
    """Return the settings from a script's option values; InputError for a value out of range.

    where: the section of the params that a message names.
    """
    own = {field.name: values[_variable(prefix, field.name)] for field in fields(settings)}
    return strict(settings, own, where or prefix or "params")


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


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return _click_type(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return _Value(kind)
    return click.Choice(get_args(kind)) if get_origin(kind) is Literal else kind
