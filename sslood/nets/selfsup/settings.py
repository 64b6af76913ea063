"""The settings of a pretraining: the shared section, what an objective's section overrides, and its views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from sslood.core.errors import InputError
from sslood.core.settings import Settings, at_least, checked
from sslood.data.images.augment import AugmentSettings, without_pictures
from sslood.nets.training.settings import TrainingSettings


@dataclass(frozen=True)
class PretrainSettings(TrainingSettings):
    """The section `pretrain`: how any objective is trained. An objective's section may override a key."""

    batch_size: Annotated[int, at_least(2), "source images per batch, each seen in all its views"]
    knn_every: Annotated[
        int, at_least(0), "epochs between kNN and linear accuracies on ID validation, 0 = never"
    ]


def shared_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a command's values `given` that belong to the section `pretrain`."""
    return {field.name: given[field.name] for field in fields(PretrainSettings) if field.name in given}


def settings_of(
    shared: Mapping[str, Any], section: Mapping[str, Any], kind: type[Settings], where: str
) -> tuple[PretrainSettings, Any]:
    """Return (how to train, settings of the objective) from the sections `pretrain` and `objectives.<name>`.

    Keys of `section` that PretrainSettings has override `shared`; the key `augment` is left to
    `recipes_of`. InputError that says in which of the two sections to look.
    """
    names = {field.name for field in fields(PretrainSettings)}
    overrides = {key: value for key, value in section.items() if key in names}
    own = {key: value for key, value in section.items() if key not in {*names, "augment"}}
    try:
        training = checked(PretrainSettings, {**shared, **overrides}, "pretrain")
    except InputError as error:
        hint = f" ({where} sets {', '.join(sorted(overrides))})" if overrides else ""
        raise InputError(f"{error}{hint}") from None
    return training, checked(kind, own, where)


def recipes_of(
    section: Mapping[str, Any],
    where: str,
    own: Mapping[str, Any] | None = None,
    own_where: str = "",
    views: int = 2,
) -> tuple[AugmentSettings, AugmentSettings]:
    """Return the recipes of the two views; the key `second` holds what differs in the second one.

    own: the key `augment` of an objective's section, whose keys replace those of `section`. The `second` of
    the shared section is then dropped.
    InputError that names the section and the key.
    """
    recipes = _both(section, where)
    if own is None:
        return recipes
    if not isinstance(own, Mapping):
        raise InputError(f"{own_where}: must hold keys and values, found {own!r}")
    if "second" in own and views == 1:
        raise InputError(f"{own_where}.second: the objective sees one view of an image; take it out")
    return _both({**section, "second": {}, **own}, own_where)


def _both(section: Mapping[str, Any], where: str) -> tuple[AugmentSettings, AugmentSettings]:
    first = {key: value for key, value in section.items() if key != "second"}
    second = section.get("second", {})
    if not isinstance(second, Mapping):
        raise InputError(f"{where}.second: must hold keys and values, found {second!r}")
    return without_pictures(first, where), without_pictures({**first, **second}, f"{where}.second")


def recorded(training: PretrainSettings, own: Settings, recipes: Sequence[AugmentSettings]) -> dict[str, Any]:
    """Return all settings that affect the result, for metadata and fingerprint."""
    return training.recorded(constants=vars(own), augment=[vars(part) for part in recipes])
