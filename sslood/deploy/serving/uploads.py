"""What is in the body of a request: a form of files, JSON, or one picture as it is."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from sslood.core.errors import as_line
from sslood.deploy.serving.given import Upload, Vectors, name_of, too_many
from sslood.deploy.serving.json_body import from_json
from sslood.deploy.serving.limits import Limits, Refused, too_large

KINDS = "multipart/form-data, application/json, or image/… for one picture"
LINGER = 5.0  # seconds in which what a refused client still sends is read, or it would not read the answer
_FORM = "send each picture as a file of the form"


async def read_uploads(
    request: Request, limits: Limits, take: Callable[[int], None], width: int
) -> list[Upload] | Vectors:
    """Return the pictures or vectors of a request; `take` counts bytes as they come, and may raise Refused.

    width: numbers that one image has, its vector's and logits.
    Raises Refused: 400 for a body that is not what its type says, 408 if it takes too long, 413 for too many
    bytes or pictures, 415 for another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind not in ("multipart/form-data", "application/json") and not kind.startswith("image/"):
            what = f"cannot take {as_line(kind)!r}" if kind else "the request has no Content-Type"
            raise Refused(415, f"{what}; send {KINDS}")
        if int(request.headers.get("content-length", "0")) > limits.bytes:  # h11 checked that it is a number
            raise too_large(limits)
        async with asyncio.timeout(limits.seconds), aclosing(_counted(request, take)) as body:
            found = await _read(request, kind, body, limits, width)
    except TimeoutError:
        late = f"the request was not complete within {limits.seconds:g} seconds; send it faster, or in parts"
        raise Refused(408, late) from None
    except Refused:
        await _linger(request)
        raise
    if not (found.names if isinstance(found, Vectors) else found):
        raise Refused(400, f"the request holds no picture; send {KINDS}")
    return found


async def _counted(request: Request, take: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        take(len(chunk))
        yield chunk


async def _read(
    request: Request, kind: str, body: AsyncGenerator[bytes, None], limits: Limits, width: int
) -> list[Upload] | Vectors:
    if kind == "multipart/form-data":
        return await _from_form(request, body, limits)
    content = bytearray()
    async for chunk in body:
        content += chunk
    if kind == "application/json":
        return await asyncio.to_thread(from_json, bytes(content), limits, width)
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
            raise too_many(limits) from None
        reason = "it has a field that is no file" if "Too many fields" in error.message else error.message
        raise Refused(400, f"the form cannot be read ({as_line(reason)}); {_FORM}") from None
    except UnicodeError as error:  # its charset is one that decodes nothing
        raise Refused(400, f"the form cannot be read ({as_line(error)}); {_FORM}") from None
    try:
        files = [(key, part) for key, part in form.multi_items() if isinstance(part, UploadFile)]
        return [Upload(name_of(part.filename or key), await part.read()) for key, part in files]
    finally:
        await form.close()
