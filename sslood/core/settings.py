"""Settings as frozen dataclasses, and the sections of a YAML file that they are read from, strictly.

A setting is declared twice: as a field, and with its value in the params. The field says all that is known of
it, and command-line options and their help are made from that (`sslood.cli.options`):

    @dataclass(frozen=True)
    class KNNSettings(Settings):
        k: Annotated[int | Auto, at_least(1), "rank of the neighbour whose distance is the score"] = "auto"
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from sslood.core.errors import InputError
from sslood.core.reader import load_yaml
from sslood.core.renamed import renamed

T = TypeVar("T")
Auto = Literal["auto"]  # chosen from the detector's grid, on validation images


@dataclass(frozen=True)
class Limits:
    """The interval that a number must lie in; one wording of it for all messages."""

    low: float = -math.inf
    high: float = math.inf
    low_included: bool = True
    high_included: bool = True

    def allow(self, value: float) -> bool:
        """Whether a number lies inside; NaN does not, nor does an infinity, whatever the limits."""
        above = value >= self.low if self.low_included else value > self.low
        below = value <= self.high if self.high_included else value < self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'at least' if self.low_included else 'above'} {self.low:g}")
        if self.high < math.inf:
            words.append(f"{'at most' if self.high_included else 'below'} {self.high:g}")
        return " and ".join(words) or "finite"


def at_least(low: float) -> Limits:
    """Return the limits low <= x."""
    return Limits(low)


def above(low: float) -> Limits:
    """Return the limits low < x."""
    return Limits(low, low_included=False)


def between(low: float, high: float) -> Limits:
    """Return the limits low <= x <= high."""
    return Limits(low, high)


def inside(low: float, high: float) -> Limits:
    """Return the limits low < x < high."""
    return Limits(low, high, low_included=False, high_included=False)


@dataclass(frozen=True)
class Settings:
    """Base of all settings. Raises InputError for a value outside the limits of its field.

    A field is `name: Annotated[type, limits, "what it means, with its unit"]`; limits hold for each element
    of a tuple, and not for the other types of a union ("auto"). A rule that concerns several fields stands
    in the subclass' `_check`.
    """

    def __post_init__(self):
        for field in fields(self):
            check_limits(type(self), field.name, getattr(self, field.name), field.name)
        self._check()

    def _check(self) -> None:
        """Raise InputError if values that are allowed each do not go together."""


def autos(settings: Any) -> list[str]:
    """Return the names of the settings that are still to be chosen: those with the value "auto"."""
    return [field.name for field in fields(settings) if getattr(settings, field.name) == "auto"]


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def type_of(kind: type, name: str) -> Any:
    """Return the type of a field without its annotations."""
    hint = _hints(kind)[name]
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def notes_of(kind: type, name: str) -> tuple[Limits | None, str]:
    """Return (limits or None, what the field means) from the annotations of a field."""
    hint = _hints(kind)[name]
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    limits = next((note for note in notes if isinstance(note, Limits)), None)
    return limits, next((note for note in notes if isinstance(note, str)), "")


def _check_bits(value: Any, where: str) -> None:
    """Raise InputError for a whole number that no array holds; a larger one may not even be a float."""
    if isinstance(value, int) and (bits := value.bit_length()) > 63:
        raise InputError(f"{where}: must fit into 64 bits, found a number of {bits} bits")


def check_limits(kind: type, name: str, value: Any, where: str) -> None:
    """Raise InputError unless a field's numbers are finite and within its limits; `where` names the key."""
    limits = notes_of(kind, name)[0] or Limits()
    for number in value if isinstance(value, tuple | list) else (value,):
        _check_bits(number, where)
        if isinstance(number, int | float) and not limits.allow(number):
            raise InputError(f"{where} must be {limits}, found {number!r}")


def load_params(path: Path) -> Any:
    """Return the content of a YAML file as DVC reads it; InputError if it is missing or broken."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run from the top of the repository")
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def parse_value(text: str, where: str) -> Any:
    """Return what a text stands for in params; InputError naming `where` if it stands for nothing."""
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        why = getattr(error, "problem", None) or error
        raise InputError(f"{where}: {text!r} is no value ({why}); write such as 20, 0.5 or auto") from None


def read_value(where: str) -> Any:
    """Return the value at FILE:KEY[.KEY...] of a YAML file, e.g. "params.yaml:objectives.simclr".

    Raises InputError if the file or the key is missing.
    """
    name, _, key = where.partition(":")
    content = load_params(Path(name))
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            names = ", ".join(map(str, content)) if isinstance(content, Mapping) else "no keys"
            raise InputError(f"{name}: no section {key!r}: {part!r} is not among {names}")
        content = content[part]
    return content


def read_section(where: str) -> dict[str, Any]:
    """Return the mapping at FILE:KEY; like `read_value`, and InputError if no mapping stands there."""
    content = read_value(where)
    if not isinstance(content, Mapping):
        name, _, key = where.partition(":")
        raise InputError(f"{name}: section {key!r} must hold keys and values, found {content!r}")
    return dict(content)


def check_name(name: str, where: str) -> str:
    """Return a name that becomes part of those of files and stages; InputError unless it is plain."""
    if not re.fullmatch(r"[^\W_][\w-]*", name):
        raise InputError(f"{where}: {name!r} is no plain name; use letters, digits, _ and -")
    return name


def near(name: object, names: Iterable[str]) -> str:
    """Return what a message says after an unknown name: the one that was perhaps meant, and all there are."""
    names = list(names)
    close = get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{hint}; known: {', '.join(names) or 'none'}"


def strict(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return `kind(**values)` for a dataclass, refusing missing, unknown and wrongly typed keys.

    `where` names the section in the messages. Field types may be int, float, bool, str, tuple[X, ...],
    Literal[...] and unions of them, each in Annotated[...] or not. A dataclass default makes a key optional.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: must hold keys and values, found {values!r}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # any dataclass
    for name in values:
        if name not in known:
            if now := renamed(f"{where.rpartition(':')[2]}.{name}"):
                raise InputError(f"{where}: {name!r} is gone: {now}")
            raise InputError(f"{where}: unknown key {name!r}{near(name, known)}")
    missing = [name for name, field in known.items() if name not in values and _required(field)]
    if missing:
        keys = "key" if len(missing) == 1 else "keys"
        raise InputError(f"{where}: missing {keys} {', '.join(map(repr, missing))}")
    content = {}
    for name, value in values.items():
        content[name] = typed(type_of(kind, name), value, f"{where}.{name}")
        check_limits(kind, name, content[name], f"{where}.{name}")
    return kind(**content)


def _required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def checked(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return `strict(kind, values, where)`, where the dataclass' own checks name the section `where` too."""
    try:
        return strict(kind, values, where)
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from None


def typed(kind: Any, value: Any, where: str) -> Any:
    """Return `value` as type `kind`, InputError naming `where` if it is of another."""
    _check_bits(value, where)
    origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: must be a list, found {value!r}")
        return tuple(typed(get_args(kind)[0], item, where) for item in value)
    if origin in (Union, UnionType):
        return _one_of(get_args(kind), value, where)
    if origin is Literal:
        if not any(value == known and type(value) is type(known) for known in get_args(kind)):
            raise InputError(f"{where}: must be {_words(kind)}, found {value!r}")
        return value
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: must be {_words(kind)}, found {value!r}")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return typed(kind, value, where)
        except InputError:
            continue
    raise InputError(f"{where}: must be {' or '.join(map(_words, kinds))}, found {value!r}")


def _words(kind: Any) -> str:
    """Return how a message names a type."""
    if get_origin(kind) is Literal:
        values = ", ".join(map(str, get_args(kind)))
        return values if len(get_args(kind)) == 1 else f"one of {values}"
    return "null" if kind is NoneType else f"of type {kind.__name__}"
