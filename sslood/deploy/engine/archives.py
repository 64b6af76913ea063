"""Pictures in tar archives, read in one pass; what an archive says of itself is not believed.

A small archive may hold headers of any size once it is unpacked, and promise members of any size.
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from sslood.core.errors import as_line
from sslood.data.sets.bounds import TooMuch, check_file
from sslood.data.sets.kinds import HEIF_SUFFIXES, SUFFIXES

ENDS_EARLY = "the archive ends early or is damaged"
HEADERS = 1 << 20  # bytes of headers, at most, before a member: its name and the like
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
_LYING = (ValueError, IndexError, RecursionError)  # what the library raises over some headers


@dataclass(frozen=True)
class Picture:
    """A picture to read: its path (or a name, if there is `content`), and why there is none, if known."""

    name: str
    content: bytes | None = None
    reason: str = ""


class _Stream:
    """The unpacked bytes of an archive, of which `left` may be read (None: any number)."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.left = stream, HEADERS
        self.tell, self.close = stream.tell, stream.close

    def read(self, size: int) -> bytes:
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise tarfile.ReadError(f"more than {HEADERS >> 20} MiB of headers before a member")
        found: bytes = self.stream.read(size)
        return found

    def seek(self, place: int) -> int:
        """Skip what is before a place; a size that lies does not skip for ever."""
        while (size := place - self.tell()) > 0:
            if not self.stream.read(min(size, tarfile.RECORDSIZE)):
                raise tarfile.ReadError("unexpected end of data")
        return int(self.stream.seek(place))


class _Archive(tarfile.TarFile):
    """A tar archive that keeps no member that it has read, and in which headers have a bound."""

    def __init__(self, name: Any, mode: Any, fileobj: Any, **options: Any) -> None:
        super().__init__(name, mode, _Stream(fileobj), **options)  # type: ignore[arg-type]

    def next(self) -> tarfile.TarInfo | None:
        stream: Any = self.fileobj
        stream.left = HEADERS
        try:
            found = super().next()
        finally:
            stream.left = None
        if sum(map(len, self.pax_headers.values())) > HEADERS:  # they hold for all members that follow
            raise tarfile.ReadError(f"more than {HEADERS >> 20} MiB of headers for all members")
        self.members.clear()  # type: ignore[attr-defined]
        return found


class _Header(tarfile.TarInfo):
    """A tar header; what is none is an error, where the library takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, *args: Any, **kwargs: Any) -> "_Header":
        try:
            return super().frombuf(*args, **kwargs)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"{error} where a member or the end should be") from None


def members(file: IO[bytes]) -> Iterator[Picture]:
    """Yield the pictures of a tar archive, compressed or not, in one pass; hidden and other members are not.

    A damaged archive, or one without the empty block at its end, yields, after what could be read of it, a
    picture without a name that says why. So does one whose headers are larger than any need to be.
    """
    endings = (*SUFFIXES, *HEIF_SUFFIXES)
    try:
        with _Archive.open(fileobj=file, mode="r|*", tarinfo=_Header) as archive:
            while (member := archive.next()) is not None:
                parts = member.name.split("/")
                if not member.isfile() or not parts[-1].lower().endswith(endings):
                    continue
                if any(part.startswith(".") and part != "." for part in parts):
                    continue
                yield _member(archive, member)
    except (*_DAMAGED, *_LYING) as error:
        yield Picture("", reason=f"{ENDS_EARLY} ({as_line(error)})")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Picture:
    try:
        check_file(member.size)
    except TooMuch as error:
        return Picture(member.name, reason=str(error))
    read = archive.extractfile(member)
    content = b"" if read is None else read.read()
    return Picture(member.name, content, "" if content else "it is empty")
