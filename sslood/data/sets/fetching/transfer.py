"""One address to one file: resumed, retried, measured and checked while it streams.

Two files may lie beside the target meanwhile: NAME.part (what has arrived) and, if a checksum was wrong,
NAME.part.refused (kept for inspection).
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from sslood.core.errors import InputError
from sslood.data.sets.fetching.published import Published

MAX_DOWNLOAD = 64 * 2**30
STALLS = 2  # broken connections in a row that brought nothing
TRIES = 4  # times a busy or failing server is asked again
BACK_OFF = 0.5  # seconds; waits are 0, 1, 2, 4 times 2 * BACK_OFF
LONGEST_WAIT = 60  # seconds, even if Retry-After asks for more
TIMEOUT = (15, 60)  # seconds to connect, and between two chunks
CHUNK = 1 << 16  # bytes: what is fetched again after a broken connection, at most
_KINDS = ("sha256", "md5")


@dataclass(frozen=True)
class Sums:
    """Length and hexadecimal digests of a file's bytes."""

    size: int
    sha256: str
    md5: str


class _Running:
    """Digests of bytes as they come."""

    def __init__(self) -> None:
        self.size, self.digests = 0, {kind: hashlib.new(kind) for kind in _KINDS}

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        for digest in self.digests.values():
            digest.update(chunk)

    def sums(self) -> Sums:
        return Sums(self.size, **{kind: digest.hexdigest() for kind, digest in self.digests.items()})


def _read(path: Path) -> _Running:
    running = _Running()
    if path.is_file():
        with open(path, "rb") as content:
            while chunk := content.read(1 << 20):
                running.add(chunk)
    return running


def sums(path: Path) -> Sums:
    """Return length and digests of a file."""
    return _read(path).sums()


def compare(seen: Sums, file: Published, where: object) -> str:
    """Return what was compared ("published sha256", "published md5", "none published").

    Of a published digest the first digits are enough, as they stand in the names of files of weights.
    Raises InputError naming `where` if a length or digest is not the published one.
    """
    if file.size and seen.size != file.size:
        raise InputError(f"{where}: it is {seen.size} bytes long, published are {file.size}; it is not used")
    checked = "none published"
    for kind in _KINDS:
        published, digest = getattr(file, kind), getattr(seen, kind)
        if published and not digest.startswith(published):
            raise InputError(f"{where}: its {kind} is {digest}, published is {published}; it is not used")
        if published:
            checked = f"published {kind}"
    return checked


def reason(error: Exception) -> str:
    """Say in a few words what went wrong with an address."""
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    texts: dict[type[Exception], str] = {
        requests.exceptions.SSLError: "its certificate was not accepted",
        requests.TooManyRedirects: "too many redirects",
        requests.Timeout: "no answer in time",
        requests.exceptions.ProxyError: "the proxy refused or could not be reached",
        requests.exceptions.ChunkedEncodingError: "the connection broke again and again",
        requests.ConnectionError: "no connection",
    }
    return next((text for kind, text in texts.items() if isinstance(error, kind)), str(error))


def quarantine(path: Path) -> Path:
    """Rename a file that must not be used to NAME.refused, kept for inspection, and return the new path."""
    return path.replace(path.with_name(f"{path.name}.refused"))


@contextmanager
def _session() -> Iterator[requests.Session]:
    """HTTP with retries: back-off and Retry-After, both bounded; proxies come from the environment."""
    retry = Retry(
        total=TRIES,
        connect=1,
        read=False,  # the loop around asks again, from where it stopped
        backoff_factor=BACK_OFF,
        retry_after_max=LONGEST_WAIT,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.max_redirects = 10
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        yield session


def download(address: str, target: Path, file: Published) -> Sums:
    """Fetch `address` to `target` and return its digests; go on where a broken connection stopped.

    Half a file never gets the name. With a published checksum the half file of an earlier run is used again,
    whatever its version: if the checksum of the whole is then wrong, the file is fetched once more from the
    start. Raises InputError, requests' errors, or OSError of the disk.
    """
    part = target.with_name(f"{target.name}.part")
    _only_ours(part)
    with _session() as session, tqdm(unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
        fetched, in_pieces = _retry(session, address, part, file, bar)
        if in_pieces and not _matches(fetched, file):
            part.unlink()
            fetched, _ = _retry(session, address, part, file, bar)
    try:
        compare(fetched, file, address)
    except InputError:
        quarantine(part)
        raise
    os.replace(part, target)
    return fetched


def _only_ours(part: Path) -> None:
    """Remove what stands in place of a half file: writing to a link would change another file."""
    with suppress(FileNotFoundError):
        found = part.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            part.unlink()


def _matches(fetched: Sums, file: Published) -> bool:
    try:
        compare(fetched, file, file.name)
    except InputError:
        return False
    return True


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _retry(
    session: requests.Session, address: str, part: Path, file: Published, bar: tqdm
) -> tuple[Sums, bool]:
    """Ask until all of the file is here, or several attempts in a row brought nothing.

    Returns its digests, and whether it was put together from pieces.
    """
    stalls, best = 0, _size(part)
    while True:
        try:
            in_pieces = _asks_for_rest(part, file)
            fetched = _resume(session, address, part, file, bar)
            if fetched is not None:
                return fetched, in_pieces
            stalls += 1
        except requests.exceptions.SSLError:
            raise
        except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError, requests.Timeout):
            have = _size(part)
            # the same bytes again are no progress, so every server comes to an end
            stalls, best = (0, have) if have > best else (stalls + 1, best)
            if stalls == STALLS:
                raise
        if stalls > STALLS:
            raise InputError("the server never sent the whole file")


def _asks_for_rest(part: Path, file: Published) -> bool:
    """Whether to ask for the rest of `part`: only a checksum shows that two pieces make a whole."""
    return bool(_size(part) and (file.sha256 or file.md5))


def _resume(session: requests.Session, address: str, part: Path, file: Published, bar: tqdm) -> Sums | None:
    """Fetch what `part` lacks; its digests when complete, None to ask again from the start."""
    have = _size(part) if _asks_for_rest(part, file) else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(address, headers=headers, stream=True, timeout=TIMEOUT) as reply:
        if reply.status_code == 416 and have:  # nothing comes after what is here: all, or something else
            if reply.headers.get("Content-Range") == f"bytes */{have}":
                return sums(part)
            part.unlink()
            return None
        reply.raise_for_status()
        goes_on = reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        running = _read(part) if have and reply.status_code == 206 and goes_on else _Running()
        length = reply.headers.get("Content-Length", "")
        bar.reset(running.size + int(length) if length.isdigit() else None)
        bar.update(running.size)
        limit = file.size or MAX_DOWNLOAD
        with open(part, "ab" if running.size else "wb") as out:
            for chunk in _chunks(reply):
                if running.size + len(chunk) > limit:
                    break
                out.write(chunk)
                running.add(chunk)
                bar.update(len(chunk))
            else:
                return running.sums()
    part.unlink()
    raise InputError(f"longer than the {limit} bytes {'published' if file.size else 'allowed'}")


def _chunks(reply: requests.Response) -> Iterator[bytes]:
    """Yield the bytes as they are sent: a server that labels a .gz file as encoded must not unpack it."""
    try:
        yield from reply.raw.stream(CHUNK, decode_content=False)
    except ReadTimeoutError as error:
        raise requests.Timeout(error) from error
    except HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error
