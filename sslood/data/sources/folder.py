"""Your own pictures: a folder, or a CSV file that lists them."""

from dataclasses import dataclass
from typing import Any

from sslood.data.sets.pictures import Splits
from sslood.data.sets.roles.roles import Role
from sslood.data.sets.source import PictureSource, SetSettings
from sslood.data.sets.user_images import read_user_images


@dataclass(frozen=True, kw_only=True)
class _Folder(PictureSource):
    def read(self, name: str, role: Role, settings: SetSettings) -> tuple[Splits, dict[str, Any]]:
        """Return the splits that a role uses of `settings.folder`, or all pictures if it has none."""
        return read_user_images(name, settings.place, role)


SOURCE = _Folder(licence="that of the pictures in the folder", citation="", takes=("folder",))
