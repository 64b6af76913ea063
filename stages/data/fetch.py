"""Files of published sets: from a mirror folder, the download cache, a mirror address, or the publisher.

SSLOOD_DATA_MIRROR  folder or base address with copies of the published files (a folder may also hold
                    their unpacked content); looked at first
SSLOOD_DATA_CACHE   where downloads are kept for all workspaces (default ~/.cache/sslood)
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from stages.core.errors import InputError
from stages.data.catalogue import Entry, Published
from stages.data.unpack import unpack

MAX_DOWNLOAD = 64 * 2**30
STALLS = 2  # broken connections in a row that brought nothing
TIMEOUT = (15, 60)  # seconds to connect, and between two chunks
CHUNK = 1 << 16  # at most so much is fetched again after a broken connection
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Located:
    """A file (or folder of unpacked content) on this machine, and what was checked about it."""

    path: Path
    checked: str  # "published md5", "published sha256", "none published" or "unpacked copy"
    sha256: str  # of the published file; "" for an unpacked copy


def cache_folder() -> Path:
    """Return the folder of downloads."""
    return Path(os.environ.get("SSLOOD_DATA_CACHE") or Path.home() / ".cache" / "sslood")


def locate(entry: Entry, file: Published) -> Located:
    """Return `file` of set `entry`, fetched and unpacked where needed.

    Raises InputError naming the set, every place tried and why it failed, and the way out.
    """
    mirror = os.environ.get("SSLOOD_DATA_MIRROR", "")
    tried: list[str] = []
    remote = list(file.sources)
    if mirror.startswith(("http://", "https://")):
        places = [f"{place}/" for place in file.mirror] + [""]
        remote = [f"{mirror.rstrip('/')}/{place}{file.name}" for place in places] + remote
    elif mirror:
        found = _in_mirror(Path(mirror), file, tried)
        if found:
            return _opened(entry, file, found)
    cached = cache_folder() / entry.name / file.name
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cached}.lock"):
        if cached.is_file():
            try:
                return _opened(entry, file, _checked(cached, file))
            except InputError as error:
                aside(cached)
                tried.append(str(error))
        for address in remote:
            try:
                download(address, cached, file)
                return _opened(entry, file, _checked(cached, file))
            except (InputError, requests.RequestException) as error:
                tried.append(f"{address}: {_reason(error)}")
    raise InputError(
        f"set {entry.name!r} cannot be had ({'; '.join(tried)}): put {file.name} or its unpacked content "
        "into a folder and name that folder in the environment variable SSLOOD_DATA_MIRROR, "
        "or take the set out of params.yaml"
    )


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong with an address."""
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate was not accepted"
    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused or could not be reached"
    if isinstance(error, requests.exceptions.RetryError):
        return "the server kept answering with errors"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke again and again"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)


def _in_mirror(mirror: Path, file: Published, tried: list[str]) -> Located | None:
    """Look for the published file, then for its unpacked content, in a mirror folder."""
    if not mirror.is_dir():
        raise InputError(
            f"environment variable SSLOOD_DATA_MIRROR is {str(mirror)!r}, which is no folder here"
        )
    for place in (*file.mirror, ""):
        path = mirror / place / file.name
        if path.is_file():
            return _checked(path, file)
    for folder in file.folders:
        if (mirror / folder).is_dir():
            return Located(mirror / folder, "unpacked copy", "")
    tried.append(f"{mirror}: holds neither {' nor '.join((file.name, *file.folders))}")
    return None


def _checked(path: Path, file: Published) -> Located:
    """Return `path` as Located if its checksum is the published one; InputError else."""
    with open(path, "rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    checked = "none published"
    for kind, published in (("sha256", file.sha256), ("md5", file.md5)):
        if published:
            with open(path, "rb") as content:
                seen = hashlib.file_digest(content, kind).hexdigest()
            if seen != published:
                raise InputError(f"{path}: its {kind} is {seen}, published is {published}; it is not used")
            checked = f"published {kind}"
    return Located(path, checked, sha256)


def _opened(entry: Entry, file: Published, located: Located) -> Located:
    """Unpack an archive into the cache, once per content, and return the folder inside."""
    if not file.name.endswith(ARCHIVES) or located.path.is_dir():
        return located
    folder = cache_folder() / entry.name / f"{file.name}.{located.sha256[:16]}.unpacked"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            unpack(located.path, folder)
    inside = folder / file.inside
    if not inside.is_dir():
        raise InputError(
            f"{located.path}: holds no folder {file.inside!r}; it is not {file.name} as published"
        )
    return Located(inside, located.checked, located.sha256)


def aside(path: Path) -> Path:
    """Rename a file that must not be used to NAME.refused (kept for a look) and return the new path."""
    return path.replace(path.with_name(f"{path.name}.refused"))


@contextmanager
def _session() -> Iterator[requests.Session]:
    """HTTP with retries: back-off 1, 2, 4 s, Retry-After obeyed; proxies come from the environment."""
    retry = Retry(
        total=4,
        connect=1,
        read=0,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.max_redirects = 10
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        yield session


def download(address: str, target: Path, file: Published) -> None:
    """Fetch `address` to `target`, going on after a broken connection where it stopped.

    Half a file never gets the name. A file whose checksum is wrong is kept beside as NAME.refused.
    Raises InputError or requests' errors.
    """
    part = target.with_name(f"{target.name}.part")
    with _session() as session, tqdm(unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
        stalls = 0
        while True:
            before = part.stat().st_size if part.is_file() else 0
            try:
                if _resume(session, address, part, file, bar):
                    break
                stalls += 1
            except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError, requests.Timeout):
                grown = part.is_file() and part.stat().st_size > before
                stalls = 0 if grown else stalls + 1
                if stalls == STALLS:
                    raise
            if stalls > STALLS:
                raise InputError("the server never sent the whole file")
    _verify(part, file)
    part.replace(target)


def _resume(session: requests.Session, address: str, part: Path, file: Published, bar: tqdm) -> bool:
    """Fetch what `part` lacks; True when complete. Starts anew where the server does not do ranges."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with session.get(address, headers=headers, stream=True, timeout=TIMEOUT) as reply:
        if reply.status_code == 416:  # nothing after what is here, or something else: start anew
            part.unlink()
            return False
        reply.raise_for_status()
        resumed = reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if reply.status_code == 206 and resumed else 0
        limit = 2 * file.size or MAX_DOWNLOAD
        length = int(reply.headers.get("Content-Length", 0))
        bar.reset(have + length or None)
        bar.update(have)
        with open(part, "ab" if have else "wb") as out:
            for chunk in reply.iter_content(CHUNK):
                have += len(chunk)
                if have > limit:
                    break
                out.write(chunk)
                bar.update(len(chunk))
    if have > limit:
        part.unlink()
        raise InputError(f"longer than the {limit} bytes allowed")
    return True


def _verify(part: Path, file: Published) -> None:
    try:
        _checked(part, file)
    except InputError:
        aside(part)
        raise
