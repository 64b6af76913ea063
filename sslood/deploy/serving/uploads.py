"""Pictures out of the body of a request: multipart, JSON with base64, or one picture as it is."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from sslood.core.errors import as_line
from sslood.core.names import shown
from sslood.deploy.serving.limits import Limits, Refused, too_large

KINDS = "multipart/form-data, application/json, or image/… for one picture"
LINGER = 5.0  # seconds in which what a refused client still sends is read, or it would not read the answer
LONGEST = 1024  # characters of a name that is given back
_FORM = "send each picture as a file of the form"
_JSON = '{"images": [{"name": "a.jpg", "data": "<base64>"}, …]}, or strings of base64 alone'


@dataclass(frozen=True)
class Upload:
    """A picture as it came: its name, which may be shown anywhere, and the bytes of its file."""

    name: str
    content: bytes


async def read_uploads(request: Request, limits: Limits, take: Callable[[int], None]) -> list[Upload]:
    """Return the pictures of a request; `take` counts bytes as they come, and may raise Refused.

    Raises Refused: 400 for a body that is not what its type says, 408 if it takes too long, 413 for too many
    bytes or pictures, 415 for another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind not in ("multipart/form-data", "application/json") and not kind.startswith("image/"):
            raise Refused(
                415, f"cannot take {as_line(kind) if kind else 'a body of no type'!r}; send {KINDS}"
            )
        if int(request.headers.get("content-length", "0")) > limits.bytes:  # h11 checked that it is a number
            raise too_large(limits)
        async with asyncio.timeout(limits.seconds), aclosing(_counted(request, take)) as body:
            found = await _read(request, kind, body, limits)
    except TimeoutError:
        late = f"the request was not complete within {limits.seconds:g} seconds; send it faster, or in parts"
        raise Refused(408, late) from None
    except Refused:
        await _linger(request)
        raise
    if not found:
        raise Refused(400, f"the request holds no picture; send {KINDS}")
    return found


async def _counted(request: Request, take: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        take(len(chunk))
        yield chunk


async def _read(
    request: Request, kind: str, body: AsyncGenerator[bytes, None], limits: Limits
) -> list[Upload]:
    if kind == "multipart/form-data":
        return await _from_form(request, body, limits)
    content = bytearray()
    async for chunk in body:
        content += chunk
    if kind == "application/json":
        return await asyncio.to_thread(_from_json, bytes(content), limits)
    return [Upload("image", bytes(content))] if content else []


async def _linger(request: Request) -> None:
    """Read and drop what still comes: a connection that is closed on data takes the answer with it."""
    try:
        async with asyncio.timeout(LINGER):
            async for _ in request.stream():
                pass
    except (TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: all has been read
        pass


class _Form(MultiPartParser):
    """Refuses a form whose last boundary is missing, since files may be too; keeps no file on disk."""

    def __init__(self, request: Request, body: AsyncGenerator[bytes, None], limits: Limits):
        super().__init__(request.headers, self._whole(body), max_files=limits.images, max_fields=0)
        self.spool_max_size, self.complete = limits.bytes + 1, False

    def on_end(self) -> None:
        self.complete = True

    async def _whole(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in body:
            yield chunk
        if not self.complete:
            raise MultiPartException("it ends before its last boundary")


async def _from_form(request: Request, body: AsyncGenerator[bytes, None], limits: Limits) -> list[Upload]:
    try:
        form = await _Form(request, body, limits).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(limits) from None
        reason = "it has a field that is no file" if "Too many fields" in error.message else error.message
        raise Refused(400, f"the form cannot be read ({as_line(reason)}); {_FORM}") from None
    try:
        files = [(key, part) for key, part in form.multi_items() if isinstance(part, UploadFile)]
        return [Upload(_name(part.filename or key), await part.read()) for key, part in files]
    finally:
        await form.close()


def _from_json(content: bytes, limits: Limits) -> list[Upload]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON ({as_line(error)}); send {_JSON}") from None
    entries = value.get("images") if isinstance(value, dict) else None
    if not isinstance(entries, list) or value.keys() != {"images"}:
        raise Refused(400, f"the body has not the one key `images` with a list; send {_JSON}")
    if len(entries) > limits.images:
        raise _too_many(limits)
    return [_entry(entry, f"images[{place}]") for place, entry in enumerate(entries)]


def _entry(entry: Any, place: str) -> Upload:
    """Return the picture of one entry of `images`, which `place` names in messages."""
    found = {"data": entry} if isinstance(entry, str) else entry
    if not isinstance(found, dict) or not {"data"} <= found.keys() <= {"data", "name"}:
        raise Refused(400, f"{place} is neither base64 nor an object of `data` and `name`; send {_JSON}")
    data, name = found["data"], found.get("name", place)
    if not isinstance(data, str) or not isinstance(name, str):
        raise Refused(400, f"{place} has a `data` or `name` that is no text; send {_JSON}")
    if data.startswith("data:"):  # as a browser writes the content of a file
        data = data.partition(",")[2]
    try:
        return Upload(_name(name), base64.b64decode(data, validate=True))
    except ValueError as error:
        raise Refused(
            400, f"{place}: its data is no base64 ({as_line(error)}); encode the bytes of the file"
        ) from None


def _name(name: str) -> str:
    return shown(name)[:LONGEST]


def _too_many(limits: Limits) -> Refused:
    return Refused(
        413,
        f"the request has more than the {limits.images} pictures that this server takes at once; send "
        "several requests, or start it with a larger --max_images",
    )
