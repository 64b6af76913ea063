"""What a stage takes from the params by reference, so that none of their values and keys meets a shell.

A command of dvc.yaml names places, and the script reads them:

    --from params.yaml:ssd       an option for each key of the section; of a single value, one of its name
    --out "data/{seed}.json"     {seed} is filled in with the value of the option --seed
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sslood.core.errors import InputError
from sslood.core.renamed import renamed
from sslood.core.settings import check_limits, check_name, near, read_value, typed

FROM = "--from"


class SettingOption(click.Option):
    """An option made from a field of a settings class."""

    def __init__(self, *args: Any, settings: type, field: str, kind: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.settings, self.field, self.kind = settings, field, kind


class SectionOption(click.Option):
    """An option that names a section, FILE:KEY, which the script reads itself.

    check: raises InputError, naming the place, unless the section at a place goes with the command's values.
    checks_settings: whether it checks the command's settings too, since the section may override them.
    """

    def __init__(
        self,
        *args: Any,
        check: Callable[[str, Mapping[str, Any]], object],
        checks_settings: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.check, self.checks_settings = check, checks_settings


class ItemOption(click.Option):
    """An option that only fills {name} in other options; the script itself does not get it."""


class Names(click.ParamType):
    """Names out of a registry; the script says which it does not know."""

    name = "text"

    def __init__(self, names: Sequence[str]):
        self.names = list(names)


def item_options(*names: str) -> Callable:
    """Return a decorator that adds options whose values only fill {name} in the paths of a command."""

    def decorate(function: Callable) -> Callable:
        for name in reversed(names):
            say = f"Fills {{{name}}} in other options."
            function = click.option(f"--{name}", f"fill_{name}", cls=ItemOption, help=say)(function)
        return function

    return decorate


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return {name: option} of a command, the names without dashes."""
    named = [option for option in command.params if isinstance(option, click.Option)]
    return {name.removeprefix("--"): option for option in named for name in option.opts}


def groups_of(options: Mapping[str, click.Option]) -> dict[tuple[type, str], list[str]]:
    """Return {(settings class, prefix): names} of the options that settings classes made."""
    groups: dict[tuple[type, str], list[str]] = {}
    for name, option in options.items():
        if isinstance(option, SettingOption):
            groups.setdefault((option.settings, name.removesuffix(option.field)), []).append(name)
    return groups


def named_at(where: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (its place, name, value) of each option that the value at FILE:KEY stands for."""
    if isinstance(value, Mapping):
        for name, item in flat(value):
            yield f"{where}.{name}", name, item
    else:
        yield where, re.split("[.:]", where)[-1], value


def flat(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of a mapping and of those in it, the keys in full: "odin.epsilon"."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def fitting(options: Mapping[str, click.Option], place: str, name: str, value: Any) -> Any:
    """Return a value of the params in the type of its option; InputError that names the place."""
    if name not in options:
        if now := renamed(place.partition(":")[2]):
            raise InputError(f"{place} is gone: {now}")
        raise InputError(
            f"{place}: unknown key{near(name, (key for key in options if key not in ('from', 'check')))}"
        )
    option = options[name]
    if kind_of(option) == tuple[str, ...] and isinstance(value, list):  # [8, 9] are names of classes
        value = [str(item) if type(item) is int else item for item in value]
    found = typed(kind_of(option), value, place)
    _check_once(found, place)
    if isinstance(option, SettingOption):
        check_limits(option.settings, option.field, found, place)
    for item in found if isinstance(found, tuple) else (found,):
        if isinstance(option.type, Names) and item not in option.type.names:
            raise InputError(f"{place}: unknown name {item!r}{near(item, option.type.names)}")
        if not isinstance(option, SettingOption):
            try:
                option.type.convert(item, option, None)
            except click.BadParameter as error:
                raise InputError(f"{place}: {error.message.rstrip('.')}") from None
    if found == () and option.required:
        raise InputError(f"{place}: must list at least one")
    return found


def _check_once(found: Any, place: str) -> None:
    """Raise InputError for a name that stands twice in a list; numbers may, such as widths of layers."""
    names = [item for item in found if isinstance(item, str)] if isinstance(found, tuple) else []
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{place}: {twice[0]!r} stands twice; take one out")


def kind_of(option: click.Option) -> Any:
    """Return the type of an option's value in the params."""
    if isinstance(option, SettingOption):
        return option.kind
    if isinstance(option, ItemOption):
        return int | str
    names = {"integer": int, "integer range": int, "boolean": bool, "float": float, "float range": float}
    kind: Any = names.get(option.type.name, str)
    return tuple[kind, ...] if option.multiple else kind


def expanded(command: click.Command, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the options that each `--from FILE:KEY` stands for in its place.

    Raises InputError that names file, key and value for what the command does not take.
    """
    found, rest = [], iter(arguments)
    for word in rest:
        if word == FROM or word.startswith(f"{FROM}="):
            where = next(rest, "") if word == FROM else word.removeprefix(f"{FROM}=")
            for place, name, value in named_at(where, read_value(where)):
                found += _words(name, fitting(options_of(command), place, name, value))
        else:
            found.append(word)
    return found


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}={item}" for item in (value if isinstance(value, tuple) else (value,))]


def fill(command: click.Command, values: dict[str, Any], arguments: Sequence[str]) -> None:
    """Fill {option} in the text and path values of a command with the options' values, in place.

    arguments: the command's; a number is filled in as it stands there. Raises InputError for a value that is
    no plain name, and so could lead out of its folder.
    """
    written = dict(zip(arguments, arguments[1:], strict=False))
    given: dict[str, str] = {}
    for name, option in options_of(command).items():
        value = values.get(str(option.name))
        if value is not None:
            given[name] = value if isinstance(value, str) else written.get(f"--{name}", str(value))

    def filled(hole: re.Match[str]) -> str:
        text = given.get(hole[1], hole[0])
        return text if re.fullmatch(r"-?\d[\d.e-]*", text) or text == hole[0] else check_name(text, hole[1])

    for key, text in values.items():
        if isinstance(text, str | Path) and "{" in str(text):
            values[key] = type(text)(re.sub(r"\{(\w+)\}", filled, str(text)))
    for option in options_of(command).values():
        if isinstance(option, ItemOption):
            values.pop(str(option.name), None)
