"""Entries of the section `sets`: read, and checked against the ID set's and against their sources."""

from dataclasses import replace

from sslood.core.errors import InputError
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import ROLES, role_named
from sslood.data.sets.source import SetSettings, Source, check_takes, read_set_settings, source_named


def read_entries(name: str, item: str, id_name: str, id_item: str) -> tuple[SetSettings, SetSettings]:
    """Return the settings of a set and of the ID set, whose entries stand at FILE:KEY.

    Raises InputError for a wrong key, and unless the ID set is the one of role id.
    """
    settings = read_set_settings(read_section(item), f"sets.{name}")
    if (name == id_name) != (settings.role == "id"):
        raise InputError(
            f"set {name!r} has role {settings.role!r}, but `id` names {id_name!r}; "
            "exactly the set named in `id` must have role id"
        )
    return settings, read_set_settings(read_section(id_item), f"sets.{id_name}")


def source_of(settings: SetSettings, id_settings: SetSettings, where: str) -> tuple[SetSettings, Source]:
    """Return an entry of `sets`, of a derived set with the ID set's folder, and its source.

    Raises InputError, beginning with `where`, unless role, source and keys go together.
    """
    role_named(settings.role, where)
    if settings.derive is not None:
        settings = _derived(settings, id_settings, where)
    elif ROLES[settings.role].is_shifted and all(
        getattr(settings, key) == getattr(id_settings, key) for key in ("source", "folder")
    ):
        raise InputError(
            f"{where}: holds the very images of the ID set; write derive: common_corruptions, or another "
            "source or folder"
        )
    source = source_named(settings.source, where)
    check_takes(source, settings, where)
    return settings, source


def _derived(settings: SetSettings, id_settings: SetSettings, where: str) -> SetSettings:
    """Return the settings of a set that is made from the ID set, with the ID set's folder."""
    if ROLES[settings.role].is_labelled:
        raise InputError(f"{where}: is made from the ID set, so it cannot have role {settings.role!r}")
    if ROLES[settings.role].is_shifted != (settings.derive == "common_corruptions"):
        raise InputError(
            f"{where}: common_corruptions, which keep the ID classes, and role shifted go together; it has "
            f"derive {settings.derive!r} and role {settings.role!r}"
        )
    if settings.source != id_settings.source:
        raise InputError(
            f"{where}: is made from the ID set, so its source must be the same; write "
            f"source: {id_settings.source}"
        )
    if settings.folder not in (None, id_settings.folder):
        raise InputError(f"{where}: is made from the ID set, whose folder is another; take `folder` out")
    skip = settings.skip_unreadable or id_settings.skip_unreadable
    return replace(settings, folder=id_settings.folder, skip_unreadable=skip)
