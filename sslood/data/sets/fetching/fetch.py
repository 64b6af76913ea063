"""Files of published sets: from a mirror folder, the download cache, a mirror address, or the publisher.

SSLOOD_DATA_MIRROR  folder or base address with copies of the published files (a folder may also hold
                    their unpacked content); looked at first
SSLOOD_DATA_CACHE   where downloads are kept for all workspaces (default ~/.cache/sslood)
"""

import errno
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from filelock import FileLock

from sslood.core.errors import InputError
from sslood.data.sets.fetching.published import Published
from sslood.data.sets.fetching.transfer import compare, download, quarantine, reason, sums
from sslood.data.sets.fetching.unpack import unpack

MAX_CONTENT, CHUNK = 2**28, 2**20  # bytes; the largest such file, of MNIST and its kin, has 47 million
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", ".tar.xz", ".tar.bz2")


class UnwritableError(InputError):
    """The disk cannot hold the file; no other address would help."""


@dataclass(frozen=True)
class Located:
    """A file (or folder of unpacked content) on this machine, and what was checked about it."""

    path: Path
    checked: str  # "published md5", "… sha256", "… content", "none published" or "unpacked copy"
    sha256: str  # of the file; "" for a folder


def cache_folder() -> Path:
    """Return the folder of downloads."""
    return Path(os.environ.get("SSLOOD_DATA_CACHE") or Path.home() / ".cache" / "sslood")


def mirror() -> Path | str | None:
    """Return the folder or base address that SSLOOD_DATA_MIRROR names; InputError for a missing folder."""
    name = os.environ.get("SSLOOD_DATA_MIRROR", "")
    if not name or name.startswith(("http://", "https://")):
        return name.rstrip("/") or None
    if not Path(name).is_dir():
        raise InputError(
            f"environment variable SSLOOD_DATA_MIRROR is {name!r}, which is not a folder on this machine"
        )
    return Path(name)


def locate(name: str, file: Published) -> Located:
    """Return `file` of set `name`, fetched and unpacked where needed.

    Raises InputError naming the set, every place tried and why it failed, and the way out.
    """
    first = mirror()
    tried: list[str] = []
    remote = list(file.sources)
    if isinstance(first, str):
        places = [f"{place}/" for place in file.mirror] + [""]
        remote = [f"{first}/{place}{file.name}" for place in places] + remote
    elif first and (copy := _in_mirror(first, file, tried)):
        return _unpacked(name, file, copy)
    for folder in file.installed:
        try:
            if (Path(folder) / file.name).is_file():
                return _checked(Path(folder) / file.name, file)
        except InputError as error:
            tried.append(str(error))
    cached = cache_folder() / name / file.name
    with writable(cached.parent), FileLock(f"{cached}.lock"):
        if cached.is_file():
            try:
                return _unpacked(name, file, _checked(cached, file))
            except UnwritableError:
                raise
            except InputError as error:
                quarantine(cached)
                tried.append(str(error))
        for address in remote:
            try:
                fetched = download(address, cached, file)
                checked = Located(cached, compare(fetched, file, cached), fetched.sha256)
                return _unpacked(name, file, checked)
            except UnwritableError:
                raise
            except (InputError, requests.RequestException) as error:
                tried.append(f"{address}: {reason(error)}")
    if not file.sources:
        tried.append("it is not offered for free download")
    raise InputError(
        f"set {name!r} cannot be obtained ({'; '.join(tried)}): put {file.name} or its unpacked content "
        "into a folder and name that folder in the environment variable SSLOOD_DATA_MIRROR, "
        "or take the set out of params.yaml"
    )


_DISK = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "a folder of that name is in the way",
    errno.ELOOP: "a link is in the way; remove it",
}


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make a folder of the cache; if the disk cannot hold it or what follows, say so in one sentence."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UnwritableError(
            f"{error.filename or folder}: cannot be written ({_DISK[error.errno]}); "
            "the environment variable SSLOOD_DATA_CACHE names another folder for downloads"
        ) from None


def places_in_mirror(folder: Path, file: Published) -> tuple[list[Path], list[Path], list[Path]]:
    """Return where a mirror folder may hold a file as published, without its .gz, and as unpacked folders."""
    published = [folder / place / file.name for place in (*file.mirror, "")]
    is_plain = file.name.endswith(".gz") and not file.name.endswith(ARCHIVES)
    plain = [path.with_suffix("") for path in published] if is_plain else []
    return published, plain, [folder / inner for inner in file.folders]


def _in_mirror(folder: Path, file: Published, tried: list[str]) -> Located | None:
    """Look for the published file, then for its unpacked content, in a mirror folder."""
    published, plain, unpacked = places_in_mirror(folder, file)
    if path := next(filter(Path.is_file, published), None):
        return _checked(path, file)
    if path := next(filter(Path.is_file, plain), None):
        return _plain(path, file)
    if path := next(filter(Path.is_dir, unpacked), None):
        return Located(path, "unpacked copy", "")
    names = (file.name, *file.folders)
    tried.append(f"{folder}: holds {'neither' if len(names) > 1 else 'no'} {' nor '.join(names)}")
    return None


def _checked(path: Path, file: Published) -> Located:
    """Return `path` as Located if its checksum, or that of its content, is the published one."""
    seen = sums(path)
    if file.content and seen.md5 != file.md5 and _content(path) == file.content:
        return Located(path, "published content", seen.sha256)
    return Located(path, compare(seen, file, path), seen.sha256)


def _plain(path: Path, file: Published) -> Located:
    """Return a file without its .gz as Located; InputError if it is known to hold something else."""
    seen = sums(path)
    if file.content and seen.sha256 != file.content:
        raise InputError(f"{path}: does not hold what the published {file.name} does; unpack it again")
    return Located(path, "published content" if file.content else "unpacked copy", seen.sha256)


def _content(path: Path) -> str:
    """Return the sha256 of what a gzip file holds, "" if it is not one or holds more than such sets do."""
    digest, left = hashlib.sha256(), MAX_CONTENT
    try:
        with gzip.open(path) as content:
            while left and (chunk := content.read(min(left, CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
    except (OSError, EOFError, zlib.error):
        return ""
    return digest.hexdigest() if left else ""


def _unpacked(name: str, file: Published, located: Located) -> Located:
    """Unpack an archive into the cache, once per content, and return the folder inside."""
    if not file.name.endswith(ARCHIVES) or located.path.is_dir():
        return located
    folder = cache_folder() / name / f"{file.name}.{located.sha256[:16]}.unpacked"
    with writable(folder.parent), FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            unpack(located.path, folder)
    inside = folder / file.inside
    if not inside.is_dir():
        raise InputError(
            f"{located.path}: holds no folder {file.inside!r}; it is not {file.name} as published"
        )
    return Located(inside, located.checked, located.sha256)
