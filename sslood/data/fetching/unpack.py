"""Unpacking of untrusted archives: every name and size is checked before a byte is written."""

import shutil
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from sslood.core.errors import InputError

MAX_BYTES = 64 * 2**30
MAX_RATIO = 200  # unpacked to packed; image sets stay below 10, a bomb has thousands
MAX_FILES = 3_000_000
MAX_NAME = 1 << 20  # bytes of an extended header, whose content is read into memory before it can be checked
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class Member(NamedTuple):
    """What an archive says about one of its members."""

    name: str
    size: int
    kind: str  # "file", "folder" or "other": a link, device or pipe


def check_members(archive: Path, members: Iterable[Member], max_bytes: int = MAX_BYTES) -> None:
    """Raise InputError for names that leave the folder, links, devices, duplicates and bombs."""
    files: set[str] = set()
    folders: set[str] = set()
    total, count, limit = 0, 0, min(max_bytes, max(2**20, MAX_RATIO * archive.stat().st_size))
    for member in members:
        path, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
        if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise InputError(
                f"{archive}: refused, member {member.name!r} would be written outside its folder"
            )
        if any(len(part.encode(errors="surrogateescape")) > 255 for part in path.parts):
            raise InputError(f"{archive}: refused, the name {member.name[:60]!r}… is too long for a disk")
        if member.kind == "other":
            raise InputError(f"{archive}: refused, member {member.name!r} is a link or a device")
        # a disk may take two spellings for one: by case, or by composed and decomposed accents
        folded = unicodedata.normalize("NFC", str(path).casefold())
        folders |= {str(parent) for parent in PurePosixPath(folded).parents}
        if member.kind == "folder":
            folders.add(folded)
        if folded in files or (member.kind == "file" and folded in folders):
            raise InputError(
                f"{archive}: refused, two members share the name {member.name!r} (or differ by case)"
            )
        if member.kind == "file":
            files.add(folded)
        total, count = total + member.size, count + 1
        if total > limit or count > MAX_FILES:
            raise InputError(
                f"{archive}: refused, it would unpack to more than {limit // 2**20} MiB or {MAX_FILES} files"
            )
    # a file may have come before the members that need a folder of its name
    if clash := sorted(files & folders):
        raise InputError(f"{archive}: refused, {clash[0]!r} is a file and a folder")


class _Header(tarfile.TarInfo):
    """A tar header that is refused where the library would read without bounds to understand it."""

    @classmethod
    def frombuf(cls, *args, **kwargs) -> "_Header":
        header = super().frombuf(*args, **kwargs)
        if header.type in _EXTENDED and header.size > MAX_NAME:
            raise tarfile.TarError(f"refused, a name of {header.size} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.TarError("refused, it holds a sparse file")
        return header


def _unpack_tar(archive: Path, folder: Path, max_bytes: int) -> None:
    with tarfile.open(archive, tarinfo=_Header) as tar:
        kinds = ((i, "file" if i.isfile() else "folder" if i.isdir() else "other") for i in tar)
        # one header at a time: a bomb is refused at its header, before its content is decompressed
        check_members(archive, (Member(info.name, info.size, kind) for info, kind in kinds), max_bytes)
        tar.extractall(folder, filter="data")


def _unpack_zip(archive: Path, folder: Path, max_bytes: int) -> None:
    with zipfile.ZipFile(archive) as file:
        modes = ((info, (info.external_attr >> 28) & 0xF) for info in file.infolist())  # Unix file types
        kinds = (
            (info, "folder" if info.is_dir() else "file" if mode in (0, 8) else "other")
            for info, mode in modes
        )
        check_members(archive, (Member(i.filename, i.file_size, kind) for i, kind in kinds), max_bytes)
        file.extractall(folder)  # stops at the declared size of each member and checks its CRC


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a tar (plain, gz, bz2, xz) or zip file into `folder`: all of it, or nothing.

    Raises InputError for a hostile or broken archive.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (_unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar)(archive, work, max_bytes)
        work.chmod(0o755)
        work.rename(folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # tarfile lists every format that it tried, one per line
        raise InputError(f"{archive}: broken or not an archive ({reason}); fetch it again") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
