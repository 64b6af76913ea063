"""More rows of the stages ssd and ssdk: one detector under several settings, side by side in the tables."""

from collections.abc import Mapping
from typing import Any, TypeVar

from sslood.core.errors import InputError
from sslood.core.settings import Settings, check_name, checked, read_section

S = TypeVar("S", bound=Settings)


def read_rows(where: str | None, base: S, stage: str) -> dict[str, S]:
    """Return row -> settings: `base` under the name of the stage, then the section at FILE:KEY, if any.

    An entry of the section holds what differs from `base`: `ssd_10: {clusters: 10}`. A name begins with that
    of the stage, so that no detector has it. Raises InputError, naming the entry, for another name, an
    unknown key or a value out of range.
    """
    rows = {stage: base}
    if where is None:
        return rows
    for name, values in read_section(where).items():
        place = f"{where}.{name}"
        if not check_name(str(name), where).startswith(f"{stage}_"):
            raise InputError(f"{where}: {name!r} must begin with {stage}_, e.g. {stage}_{name}")
        if not isinstance(values, Mapping):
            raise InputError(f"{place}: must hold what differs from `{stage}`, found {values!r}")
        rows[str(name)] = checked(type(base), {**vars(base), **values}, place)
    return rows


def check_rows(kind: type[Settings], stage: str, where: str, given: Mapping[str, Any]) -> None:
    """Raise InputError unless the section at FILE:KEY goes with a command's values `given`."""
    own = {name: given[name] for name in kind.__dataclass_fields__ if name in given}
    read_rows(where, checked(kind, own, stage), stage)
