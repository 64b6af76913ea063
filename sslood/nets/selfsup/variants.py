"""Named variants of an objective: a section of `objectives` that says which objective it is `of`.

    objectives:
      bayes_h_vicreg: {beta: 0.0001, …}
      bvic_b01: {of: bayes_h_vicreg, beta: 0.01}

The variant has the constants of that objective's section, but for its own keys.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sslood.core.errors import InputError
from sslood.core.settings import near

OF = "of"


def is_variant(section: Any) -> bool:
    """Whether a section of `objectives` is that of a variant."""
    return isinstance(section, Mapping) and OF in section


def constants_of(
    name: str, sections: Mapping[str, Any], kinds: Iterable[str], where: str
) -> tuple[str, dict[str, Any]]:
    """Return (objective, constants) of a variant, or of an objective with a section of its own.

    sections: the section `objectives`; kinds: the objectives that there are; where: FILE:KEY of the section,
    for messages. Of the key `augment`, single keys are replaced. InputError for a name without a section, for
    a variant of what is no objective, and for one that bears the name of an objective.
    """
    kinds = list(kinds)
    if name not in sections:
        raise InputError(f"{where}: there is no objective {name!r}{near(name, sections)}")
    own = _mapping(sections[name], f"{where}.{name}")
    if OF not in own:
        if name not in kinds:
            raise InputError(
                f"{where}.{name}: missing key {OF!r}, the objective whose variant it is: {', '.join(kinds)}"
            )
        return name, own
    base = own.pop(OF)
    if name in kinds:
        raise InputError(f"{where}.{name}: {name!r} is an objective; give its variant another name")
    if base not in kinds:
        raise InputError(f"{where}.{name}.{OF}: {base!r} is no objective{near(base, kinds)}")
    constants = _mapping(sections.get(base, {}), f"{where}.{base}")
    return base, overridden(constants, own, f"{where}.{name}")


def overridden(constants: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return constants of an objective with other values of some keys; of `augment`, key by key."""
    merged = {**constants, **changes}
    if "augment" in constants and "augment" in changes:
        merged["augment"] = {
            **_mapping(constants["augment"], where),
            **_mapping(changes["augment"], f"{where}.augment"),
        }
    return merged


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: must hold keys and values, found {value!r}")
    return dict(value)
