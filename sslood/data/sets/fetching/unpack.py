"""Unpacking of untrusted archives: every name and size is checked before its content is written."""

import bz2
import errno
import gzip
import lzma
import shutil
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from glob import escape
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple, cast

from sslood.core.errors import InputError, as_line

MAX_BYTES = 64 * 2**30
MAX_RATIO = 200  # unpacked to packed; image sets stay below 10, a bomb has thousands
MAX_FILES = 3_000_000
MIN_PACKED = 50  # bytes that a file takes in an archive, from the 2,000th on; a picture takes more
MAX_PATH, MAX_DEPTH = 1024, 32  # bytes and folders of a member's name
MAX_NAME = 1 << 16  # bytes of an extended header, whose content is read into memory before it can be checked
MAX_COMMON = 100  # entries of the headers for all members, which are kept
CHUNK = 1 << 18
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
# what a hostile name makes of a disk, or no number: then the content is to blame, not the disk
_OF_CONTENT = {
    None,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EILSEQ,
}


class Member(NamedTuple):
    """What an archive says about one of its members."""

    name: str
    size: int
    kind: str  # "file", "folder" or "other": a link, device, pipe or sparse file


# of `extract`, as a second guard; Python before 3.11.4 (Debian 12 has 3.11.2) lacks it
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class Members:
    """The members of an archive so far; each new one is checked before its content is written."""

    def __init__(self, archive: Path, max_bytes: int = MAX_BYTES):
        packed = archive.stat().st_size
        self.archive, self.files, self.folders = archive, set[str](), set[str]()
        self.max_bytes = min(max_bytes, max(2**20, MAX_RATIO * packed))
        self.max_members = min(MAX_FILES, 2_000 + packed // MIN_PACKED)
        self.bytes = self.count = 0

    def check(self, member: Member) -> None:
        """Raise InputError for a name that leaves the folder, a link, a device, a duplicate and a bomb."""
        path = PurePosixPath(member.name)
        if why := _wrong_name(member.name, path):
            raise self._refused(member, why)
        if member.kind == "other" or member.size < 0:
            raise self._refused(member, "is a link, a device or a sparse file, or has a negative size")
        # a disk may take two spellings for one: by case, or by composed and decomposed accents
        folded = unicodedata.normalize("NFC", str(path).casefold())
        if folded in self.files or not self._has_place(folded) or (member.kind, folded) == ("file", "."):
            raise self._refused(member, "and another share the name (or differ by case)")
        if member.kind == "folder":
            self.folders.add(folded)
        elif folded in self.folders:
            raise self._refused(member, "and a folder share the name (or differ by case)")
        else:
            self.files.add(folded)
        self.bytes, self.count = self.bytes + member.size, self.count + 1
        if self.bytes > self.max_bytes or self.count > self.max_members:
            most = f"{self.max_bytes // 2**20} MiB or {self.max_members} files"
            raise InputError(f"{self.archive}: refused, it would unpack to more than {most}")

    def _has_place(self, folded: str) -> bool:
        """Whether no folder above a name is a file; they are noted."""
        while (folded := folded.rpartition("/")[0]) and folded not in self.folders:
            if folded in self.files:
                return False
            self.folders.add(folded)
        return True

    def _refused(self, member: Member, why: str) -> InputError:
        return InputError(f"{self.archive}: refused, member {as_line(repr(member.name), 80)} {why}")


def _wrong_name(name: str, path: PurePosixPath) -> str:
    """Return what is wrong with a name that leads out of the folder, or that no disk can hold; else ""."""
    windows = PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return "would be written outside its folder"
    try:
        lengths = [len(part.encode(errors="surrogateescape")) for part in path.parts]
    except UnicodeError:
        return "has a name that is no text"
    if "\0" in name:
        return "has a zero byte in its name"
    if max(lengths, default=0) > 255 or sum(lengths) > MAX_PATH or len(lengths) > MAX_DEPTH:
        return "is too long or too deep for a disk"
    return ""


class _Header(tarfile.TarInfo):
    """A tar header, refused where the library would read without bounds or take damage for the end."""

    @classmethod
    def frombuf(cls, *args, **kwargs) -> "_Header":
        try:
            header = super().frombuf(*args, **kwargs)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.TarError(f"{error} where a member or the end should be") from None
        if header.type in _EXTENDED and header.size > MAX_NAME:
            raise tarfile.TarError(f"refused, a name of {header.size} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.TarError("refused, it holds a sparse file")
        if header.size < 0:
            raise tarfile.TarError("refused, a negative size")
        return header

    def _refuse(self, *args: object) -> None:
        raise tarfile.TarError("refused, it holds a sparse file")

    # the library reads the map of a sparse file, however long, before its member can be checked
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


class _Bounded:
    """The unpacked bytes of a tar file; no more than `limit` are read."""

    def __init__(self, stream: BinaryIO, limit: int):
        self.stream, self.left = stream, limit

    def read(self, count: int = -1) -> bytes:
        content = self.stream.read(count)
        self.left -= len(content)
        if self.left < 0:
            raise tarfile.TarError("refused, it goes on for longer than its members")
        return content


def _unpack_tar(archive: Path, folder: Path, members: Members) -> None:
    with open(archive, "rb") as file:
        first = file.read(6)
        file.seek(0)
        opened = (opener for magic, opener in _OPENERS.items() if first.startswith(magic))
        opener = next(opened, None)
        with opener(file) if opener else file as stream:
            bounded = _Bounded(stream, 2 * members.max_bytes + 2**20)  # headers and padding come on top
            for tar, info in _headers(bounded):
                kind = (
                    "file" if info.isreg() and not info.issparse() else "folder" if info.isdir() else "other"
                )
                members.check(Member(info.name, info.size, kind))
                # the content of the one member, before the next is looked at: one pass over the archive
                tar.extract(info, folder, set_attrs=False, **SAFELY)
            while bounded.read(CHUNK):  # to the end, where gzip, bzip2 and xz keep the checksum
                pass


def _headers(stream: _Bounded) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the archive with each of its headers in turn; none is kept in memory."""
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|", bufsize=CHUNK, tarinfo=_Header) as tar:
        while (info := tar.next()) is not None:
            if len(tar.pax_headers) > MAX_COMMON:
                raise tarfile.TarError("refused, too many headers for all members")
            yield tar, info
            tar.members.clear()  # type: ignore[attr-defined]


def _unpack_zip(archive: Path, folder: Path, members: Members) -> None:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = (info.external_attr >> 28) & 0xF  # the Unix file type
            kind = "folder" if info.is_dir() else "file" if mode in (0, 8) else "other"
            members.check(Member(info.filename, info.file_size, kind))
        file.extractall(folder)  # stops at the declared size of each member and checks its CRC


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a tar (plain, gz, bz2, xz) or zip file into `folder`: all of it, or nothing.

    The checksums that gzip, bzip2, xz and zip keep of their content are compared. What an earlier, killed
    call for the same folder left is removed. Raises InputError for a hostile or broken archive, OSError of
    the disk.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{escape(folder.name)}.????????"):
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with open(archive, "rb") as file:
            zipped = file.read(2) == b"PK"
        (_unpack_zip if zipped else _unpack_tar)(archive, work, Members(archive, max_bytes))
        work.chmod(0o755)
        work.rename(folder)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes the libraries raise whatever comes
        if isinstance(error, OSError) and error.errno not in _OF_CONTENT:
            raise
        raise InputError(f"{archive}: broken or not an archive ({as_line(error)}); fetch it again") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
