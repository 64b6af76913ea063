"""Unpacking that trusts nothing: every name and size is checked before a byte is written."""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from stages.core.errors import InputError

MAX_BYTES = 64 * 2**30
MAX_RATIO = 200  # unpacked to packed; image sets stay below 10, a bomb has thousands
MAX_FILES = 3_000_000


class Member(NamedTuple):
    """What an archive says about one of its members."""

    name: str
    size: int
    plain: bool  # a file or a folder; not a link, device or pipe


def check_members(archive: Path, members: Iterable[Member], max_bytes: int = MAX_BYTES) -> None:
    """Raise InputError for names that leave the folder, links, devices, duplicates and bombs."""
    seen: set[str] = set()
    total, limit = 0, min(max_bytes, max(2**20, MAX_RATIO * archive.stat().st_size))
    for member in members:
        path, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
        if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise InputError(
                f"{archive}: refused, member {member.name!r} would be written outside its folder"
            )
        if not member.plain:
            raise InputError(f"{archive}: refused, member {member.name!r} is a link or a device")
        folded = str(path).casefold()
        if folded in seen and member.size:
            raise InputError(
                f"{archive}: refused, two members share the name {member.name!r} (or differ by case)"
            )
        seen.add(folded)
        total += member.size
        if total > limit or len(seen) > MAX_FILES:
            raise InputError(
                f"{archive}: refused, it would unpack to more than {limit // 2**20} MiB or {MAX_FILES} files"
            )


def _unpack_tar(archive: Path, folder: Path, max_bytes: int) -> None:
    with tarfile.open(archive) as tar:
        infos = tar.getmembers()
        check_members(archive, (Member(i.name, i.size, i.isfile() or i.isdir()) for i in infos), max_bytes)
        tar.extractall(folder, infos, filter="data")


def _unpack_zip(archive: Path, folder: Path, max_bytes: int) -> None:
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        kinds = ((i, (i.external_attr >> 28) & 0xF) for i in infos)  # file type of the Unix mode
        check_members(
            archive, (Member(i.filename, i.file_size, kind in (0, 4, 8)) for i, kind in kinds), max_bytes
        )
        file.extractall(folder)  # stops at the declared size of each member and checks its CRC


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a tar (plain, gz, bz2, xz) or zip file into `folder`: all of it, or nothing.

    Raises InputError for a hostile or broken archive.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        how = _unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar
        how(archive, work, max_bytes)
        work.chmod(0o755)
        work.rename(folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive}: broken or not an archive ({error}); fetch it again") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
