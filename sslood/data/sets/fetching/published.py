"""One file as its publisher offers it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where a file is, and by what it is known.

    name: its file name. sources: addresses, in the order they are tried; none if nobody offers it for free
    download. md5, sha256: as published or widely verified, "" if neither; size in bytes, 0 if unknown.
    split: the only split that needs the file, "" = all. inside: folder within an archive that the reader is
    given. folders: where a mirror may keep the unpacked content instead. mirror: folders of a mirror that may
    hold the file. content: sha256 of what a .gz file holds, by which recompressed copies are accepted.
    installed: folders where a system's package puts the file.
    """

    name: str
    sources: tuple[str, ...] = ()
    md5: str = ""
    sha256: str = ""
    size: int = 0
    split: str = ""
    inside: str = ""
    folders: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()
    content: str = ""
    installed: tuple[str, ...] = ()
